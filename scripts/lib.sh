# shellcheck shell=bash
# Shared by the scripts beside it: messages, system packages, and one Kafka broker. To be sourced, from any directory.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$PWD/$target ;; esac

say() { printf '== %s\n' "$*" >&2; }

# Succeeds where packages can be installed without anybody being asked for a password.
may_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

apt_get() {
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" </dev/null >&2
}

# The lists of a machine that never ran `apt-get update` are empty or old: once a run, and only if something is to be installed.
apt_update() {
    [ -z "${apt_updated:-}" ] || return 0
    apt_get update || return 1
    apt_updated=1
}

# install_packages PACKAGE…: succeeds if they are installed now; else says why not.
install_packages() {
    if ! may_install; then
        say "missing, and not installed since that takes apt-get and root: apt-get install $*"
        return 1
    fi
    say "installing $*"
    if ! { apt_update && apt_get install --no-install-recommends -y "$@"; }; then
        say "apt-get could not install: $*"
        return 1
    fi
}

# What librdkafka and the features ssl and sasl are built from.
ensure_build_packages() {
    local packages=()
    command -v cc >/dev/null && command -v c++ >/dev/null && command -v make >/dev/null || packages+=(build-essential)
    command -v pkg-config >/dev/null || packages+=(pkg-config)
    has_library zlib || packages+=(zlib1g-dev)
    has_library openssl || packages+=(libssl-dev)
    has_library libsasl2 || packages+=(libsasl2-dev)
    # Tests make certificates with it.
    command -v openssl >/dev/null || packages+=(openssl)
    [ ${#packages[@]} = 0 ] || install_packages "${packages[@]}"
}

has_library() { command -v pkg-config >/dev/null && pkg-config --exists "$1"; }

java_command() {
    if [ -n "${JAVA_HOME:-}" ] && [ -x "$JAVA_HOME/bin/java" ]; then echo "$JAVA_HOME/bin/java"; else command -v java; fi
}

# Java's major version, 0 where there is none.
java_version() {
    local java version
    java=$(java_command) || { echo 0; return; }
    version=$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | sed -n 1p)
    echo "${version:-0}"
}

ensure_java() {
    [ "$(java_version)" -lt 17 ] || return 0
    # Debian and its kin carry different versions: the oldest that will do is the most tried.
    local package packages=(openjdk-17-jre-headless openjdk-21-jre-headless openjdk-25-jre-headless default-jre-headless)
    if may_install && apt_update; then
        for package in "${packages[@]}"; do
            apt-cache show "$package" >/dev/null 2>&1 && packages=("$package") && break
        done
    fi
    install_packages "${packages[0]}" || return 1
    [ "$(java_version)" -ge 17 ] || { say "Java 17 or later is needed, found: $(java_version)"; return 1; }
}

# A server, for tests that start their own on a free port.
ensure_redis() { command -v redis-server >/dev/null || install_packages redis-server; }

ensure_maven() { command -v mvn >/dev/null || install_packages maven; }

# start_broker: one Apache Kafka on free ports of the loopback; sets and exports KAFKA_BOOTSTRAP_SERVERS.
# Needs KAFKA_ENVELOPE_KAFKA_LIBS (scripts/kafka.sh prints it). BROKER_HEAP sets the heap, 512m by default. Arguments are
# more options of Java's.
start_broker() {
    local java port controller deadline archive options=("-Xmx${BROKER_HEAP:-512m}" "$@")
    java=$(java_command) || return 1
    archive=$(class_archive)
    [ ! -e "$archive" ] || options+=("-XX:SharedArchiveFile=$archive")
    port=$(free_port) && controller=$(free_port "$port") || return 1
    mkdir -p "$target/tmp"
    broker_dir=$(mktemp -d "$target/tmp/shared-broker.XXXXXX")
    {
        cat "$root/scripts/kafka.properties"
        echo "listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller"
        echo "advertised.listeners=PLAINTEXT://127.0.0.1:$port"
        echo "controller.quorum.voters=1@127.0.0.1:$controller"
        echo "log.dirs=$broker_dir/data"
        # Nobody kills it, and where a host lets it wait for seconds it shall not be fenced for that.
        echo "broker.session.timeout.ms=60000"
    } >"$broker_dir/server.properties"
    "$java" -Xmx256m -XX:TieredStopAtLevel=1 -cp "$KAFKA_ENVELOPE_KAFKA_LIBS/*" kafka.tools.StorageTool \
        format -t "$(cluster_id)" -c "$broker_dir/server.properties" >"$broker_dir/log" 2>&1 </dev/null ||
        { broker_failed "could not format its directory"; return 1; }
    # In a process group of its own, a Ctrl-C meets this script alone, whose trap then stops the broker.
    set -m
    "$java" "${options[@]}" -cp "$KAFKA_ENVELOPE_KAFKA_LIBS/*" kafka.Kafka "$broker_dir/server.properties" \
        >>"$broker_dir/log" 2>&1 </dev/null &
    broker_pid=$!
    set +m
    # The leash: when this script ends in any way, even by kill -9, the pipe closes and the broker with it.
    exec {broker_leash}> >(trap "" INT TERM; read -r _ || { kill -9 "$broker_pid"; sleep 1; rm -rf "$broker_dir"; } 2>/dev/null)
    deadline=$((SECONDS + 120))
    until grep -q 'Kafka Server started' "$broker_dir/log"; do
        if ! kill -0 "$broker_pid" 2>/dev/null; then broker_failed "ended"; return 1; fi
        if [ "$SECONDS" -ge "$deadline" ]; then broker_failed "did not answer within 120 s"; return 1; fi
        sleep 0.1
    done
    export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$port
    say "Apache Kafka runs on $KAFKA_BOOTSTRAP_SERVERS (pid $broker_pid)"
}

# The classes that a broker loads, as Java maps them into memory: it starts in half the time. Java passes over an archive
# that is of another Java or of other jars.
class_archive() { echo "${KAFKA_ENVELOPE_KAFKA_LIBS%/*}/kafka.jsa"; }

# Makes it, by a broker that only starts and ends.
archive_classes() {
    local archive
    archive=$(class_archive)
    start_broker "-XX:ArchiveClassesAtExit=$archive.$$" || return 1
    kill -TERM "$broker_pid"
    wait "$broker_pid" || true
    # Its id may be another process's by now.
    broker_pid=
    stop_broker
    mv "$archive.$$" "$archive"
}

broker_failed() {
    say "the broker $1; the end of its log:"
    tail -n 40 "$broker_dir/log" >&2
    stop_broker
}

# stop_broker: ends what start_broker started, by its pid, and removes its directory. May be called twice.
stop_broker() {
    local tenth
    if [ -n "${broker_pid:-}" ]; then
        kill -TERM "$broker_pid" 2>/dev/null || true
        for ((tenth = 0; tenth < 100; tenth++)); do
            kill -0 "$broker_pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$broker_pid" 2>/dev/null || true
        wait "$broker_pid" 2>/dev/null || true
        broker_pid=
    fi
    if [ -n "${broker_leash:-}" ]; then
        # A line, in contrast to the end of the file, says that there is nothing left to do.
        echo >&"$broker_leash" || true
        exec {broker_leash}>&-
        broker_leash=
    fi
    [ -z "${broker_dir:-}" ] || rm -rf "$broker_dir"
    broker_dir=
}

# with_broker COMMAND…: runs it on the broker that KAFKA_BOOTSTRAP_SERVERS names, else on one that lives as long as it does.
with_broker() {
    local status=0
    if [ -n "${KAFKA_BOOTSTRAP_SERVERS:-}" ]; then
        "$@"
        return
    fi
    trap stop_broker EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    start_broker || return 1
    "$@" || status=$?
    stop_broker
    unset KAFKA_BOOTSTRAP_SERVERS
    return "$status"
}

# free_port [TAKEN]: below the range from which outgoing connections take theirs, so that none takes it later.
free_port() {
    local try port
    for ((try = 0; try < 100; try++)); do
        port=$((20000 + RANDOM % 12000))
        [ "$port" != "${1:-}" ] || continue
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
    done
    say "no free port found"
    return 1
}

# 16 random bytes in base64url, as Kafka writes its ids; one that starts with `-` would read as an option.
cluster_id() { printf 'k%s' "$(head -c 64 /dev/urandom | base64 -w 0 | tr -dc 'A-Za-z0-9' | cut -c 1-20)A"; }
