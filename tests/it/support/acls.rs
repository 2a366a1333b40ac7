//! Rights of users, granted and taken back: two of Kafka's requests by hand, as no client here has them.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::{PATIENCE, eventually};

const CREATE: i16 = 30;
const DELETE: i16 = 31;

#[derive(Clone, Copy)]
pub(crate) enum On<'a> {
    Topic(&'a str),
    Group(&'a str),
    Cluster,
    TransactionalId(&'a str),
}

#[derive(Clone, Copy)]
pub(crate) enum May {
    All = 2,
    Read = 3,
    Write = 4,
    Describe = 8,
}

/// From now on the user may. Rights of a broker are its own a moment later.
pub(crate) fn grant(bootstrap: &str, user: &str, may: May, on: On<'_>) {
    change(bootstrap, CREATE, user, may, on);
}

/// From now on the user may not, where that was granted in the same words.
pub(crate) fn revoke(bootstrap: &str, user: &str, may: May, on: On<'_>) {
    change(bootstrap, DELETE, user, may, on);
}

fn change(bootstrap: &str, api: i16, user: &str, may: May, on: On<'_>) {
    let (kind, name) = match on {
        On::Topic(name) => (2, name),
        On::Group(name) => (3, name),
        On::Cluster => (4, "kafka-cluster"),
        On::TransactionalId(name) => (5, name),
    };
    // The version before tagged fields.
    let mut request = [api.to_be_bytes(), 1i16.to_be_bytes()].concat();
    request.extend(7i32.to_be_bytes());
    text(&mut request, "test");
    request.extend(1i32.to_be_bytes());
    const LITERAL: u8 = 3;
    const ALLOW: u8 = 3;
    request.push(kind);
    text(&mut request, name);
    request.push(LITERAL);
    text(&mut request, &format!("User:{user}"));
    text(&mut request, "*");
    request.extend([may as u8, ALLOW]);
    // The controller may be on its way up.
    eventually(PATIENCE, "an ACL is changed", || {
        let answer = ask(bootstrap, &request).ok()?;
        // After the correlation id, the throttle time and the count.
        (answer.get(12..14)? == [0, 0]).then_some(())
    });
}

fn text(request: &mut Vec<u8>, text: &str) {
    request.extend((text.len() as i16).to_be_bytes());
    request.extend(text.bytes());
}

fn ask(bootstrap: &str, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(bootstrap)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[&(request.len() as i32).to_be_bytes(), request].concat())?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
