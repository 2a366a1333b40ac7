#!/usr/bin/env bash
# Puts Apache Kafka (the version in kafka.pom.xml) from Maven Central into target/kafka/<version>/libs and prints that
# directory. Installs Java and Maven where it may. A complete copy is left as it is, without any use of the network. Beside
# it lies what makes brokers start faster, see `class_archive`.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

pom=$root/scripts/kafka.pom.xml
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$pom")
libs=$target/kafka/$version/libs

ensure_java
# The pom that the jars came by lies beside them: another one means another set.
if ! cmp -s "$pom" "$libs/kafka.pom.xml"; then
    ensure_maven
    say "copying Apache Kafka $version from Maven Central to $libs"
    mkdir -p "$target/kafka/$version"
    fresh=$(mktemp -d "$target/kafka/$version/.libs.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    mvn --batch-mode --quiet --file "$pom" dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$fresh" </dev/null >&2 ||
        { say "Maven could not fetch Apache Kafka $version"; exit 1; }
    cp "$pom" "$fresh/kafka.pom.xml"
    chmod 755 "$fresh"
    # Complete or not there at all. Whoever came first with the same set wins.
    cmp -s "$pom" "$libs/kafka.pom.xml" || { rm -rf "$libs" && mv "$fresh" "$libs"; }
    rm -f "$target/kafka/$version/kafka.jsa"
fi
export KAFKA_ENVELOPE_KAFKA_LIBS=$libs
if [ ! -e "$(class_archive)" ]; then
    say "making an archive of Apache Kafka's classes"
    archive_classes >&2 || say "going on without: brokers start slower"
fi
echo "$libs"
