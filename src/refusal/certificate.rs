//! What is wrong with a broker's certificate. OpenSSL told librdkafka, which does not tell; so it is looked at again.

use std::cmp::Ordering;
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use openssl::asn1::Asn1Time;
use openssl::nid::Nid;
use openssl::ssl::{HandshakeError, Ssl, SslContext, SslMethod, SslVerifyMode};
use openssl::x509::X509Ref;

/// For each step of the connection.
const PATIENCE: Duration = Duration::from_secs(2);

/// None: the certificate cannot be looked at.
pub(super) fn fault(address: &str) -> Option<String> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_matches(|c| c == '[' || c == ']');
    // A name may stand for addresses of which only one is the broker's, as `localhost` does.
    let mut places = (host, port.parse().ok()?).to_socket_addrs().ok()?;
    let stream = places.find_map(|place| TcpStream::connect_timeout(&place, PATIENCE).ok())?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let mut context = SslContext::builder(SslMethod::tls_client()).ok()?;
    // Nothing is sent over this connection, it is only looked at who answers.
    context.set_verify(SslVerifyMode::NONE);
    let mut ssl = Ssl::new(&context.build()).ok()?;
    if host.parse::<IpAddr>().is_err() {
        ssl.set_hostname(host).ok()?;
    }
    let certificate = match ssl.connect(stream) {
        Ok(stream) => stream.ssl().peer_certificate(),
        Err(HandshakeError::Failure(stream) | HandshakeError::WouldBlock(stream)) => stream.ssl().peer_certificate(),
        Err(HandshakeError::SetupFailure(_)) => None,
    };
    judge(&*certificate?, host)
}

fn judge(certificate: &X509Ref, host: &str) -> Option<String> {
    let now = Asn1Time::days_from_now(0).ok()?;
    if certificate.not_after().compare(&now).ok()? == Ordering::Less {
        return Some(format!("the broker's certificate has expired, on {}", certificate.not_after()));
    }
    if certificate.not_before().compare(&now).ok()? == Ordering::Greater {
        return Some(format!("the broker's certificate is not valid before {}", certificate.not_before()));
    }
    let names = names(certificate);
    if !names.iter().any(|name| is_for(name, host)) {
        let names = names.join(", ");
        return Some(format!("the broker's certificate is for another host: {names}, and not for {host}"));
    }
    let issuer = issuer(certificate);
    Some(format!("the broker's certificate was signed by an authority that is not known here: {issuer}"))
}

fn names(certificate: &X509Ref) -> Vec<String> {
    let alternatives = certificate.subject_alt_names();
    let alternatives = alternatives.iter().flatten().filter_map(|name| {
        let address = match name.ipaddress() {
            Some(bytes) if bytes.len() == 4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            Some(bytes) => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
            None => None,
        };
        name.dnsname().map(str::to_owned).or_else(|| address.map(|address| address.to_string()))
    });
    let mut names: Vec<_> = alternatives.collect();
    if names.is_empty() {
        // As OpenSSL does it.
        let common = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
        names.extend(common.filter_map(|entry| entry.data().to_string().ok()));
    }
    names
}

fn is_for(name: &str, host: &str) -> bool {
    let (name, host) = (name.to_ascii_lowercase(), host.to_ascii_lowercase());
    // A wildcard stands for one label.
    let wild = || name.strip_prefix("*.").zip(host.split_once('.')).is_some_and(|(name, (_, host))| name == host);
    name == host || wild()
}

fn issuer(certificate: &X509Ref) -> String {
    let entries = certificate.issuer_name().entries();
    let texts: Vec<_> = entries.filter_map(|entry| entry.data().to_string().ok()).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use openssl::x509::{X509Builder, X509NameBuilder};

    use super::*;

    #[test]
    fn without_other_names_the_common_name_counts() {
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, "kafka.example").unwrap();
        let name = name.build();
        let mut builder = X509Builder::new().unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
        let certificate = builder.build();
        let fault = |host| judge(&certificate, host).unwrap();
        assert!(fault("kafka.example").ends_with("authority that is not known here: kafka.example"));
        assert!(fault("b.example").ends_with("is for another host: kafka.example, and not for b.example"));
    }

    #[test]
    fn hosts() {
        assert!(is_for("kafka.example", "Kafka.example") && is_for("*.example", "a.example"));
        assert!(!is_for("*.example", "a.b.example") && !is_for("*.example", "example") && !is_for("a", "b"));
        assert!(is_for("127.0.0.1", "127.0.0.1"));
    }
}
