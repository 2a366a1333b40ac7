//! Certificates of a test's own, made by `openssl`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::unique;

const KEY: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];

/// Who signs certificates.
pub(crate) struct Authority {
    dir: PathBuf,
    name: String,
}

/// Of a certificate, how many days it is still good. An expired one's are negative.
pub(crate) struct Days(pub(crate) i32);

impl Authority {
    pub(crate) fn make(dir: &Path, name: &str) -> Authority {
        let authority = Authority { dir: dir.to_owned(), name: name.to_owned() };
        let (key, certificate) = (authority.path("key"), authority.certificate());
        let subject = format!("/CN={name}");
        let mut arguments = vec!["req", "-x509", "-nodes", "-days", "30", "-subj", &subject];
        arguments.extend(KEY);
        openssl(&arguments, &[("-keyout", &key), ("-out", &certificate)]);
        authority
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.path("pem")
    }

    /// A certificate for this name and host (`IP:…` or `DNS:…`), and its key: a PEM file with both.
    pub(crate) fn issue(&self, name: &str, host: &str, Days(days): Days) -> PathBuf {
        let file = unique(name);
        let path = |extension: &str| self.dir.join(format!("{file}.{extension}"));
        let (key, request, signed, both) = (path("key"), path("csr"), path("crt"), path("pem"));
        let (subject, host) = (format!("/CN={name}"), format!("subjectAltName={host}"));
        let mut arguments = vec!["req", "-new", "-nodes", "-subj", &subject, "-addext", &host];
        arguments.extend(KEY);
        openssl(&arguments, &[("-keyout", &key), ("-out", &request)]);
        let days = days.to_string();
        openssl(
            &["x509", "-req", "-copy_extensions", "copy", "-days", &days, "-CAcreateserial"],
            &[("-in", &request), ("-CA", &self.certificate()), ("-CAkey", &self.path("key")), ("-out", &signed)],
        );
        fs::write(&both, [fs::read(&key).unwrap(), fs::read(&signed).unwrap()].concat()).unwrap();
        both
    }

    fn path(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name))
    }
}

/// The same key under a password.
pub(crate) fn encrypted_key(pem: &Path, password: &str) -> PathBuf {
    let locked = pem.with_extension("locked.key");
    let password = format!("pass:{password}");
    openssl(&["pkcs8", "-topk8", "-v2", "aes256", "-passout", &password], &[("-in", pem), ("-out", &locked)]);
    locked
}

fn openssl(arguments: &[&str], files: &[(&str, &Path)]) {
    let mut command = Command::new("openssl");
    command.args(arguments);
    for (option, file) in files {
        command.arg(option).arg(file);
    }
    let output = command.output().expect("the program `openssl`: scripts/test.sh gets it");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
