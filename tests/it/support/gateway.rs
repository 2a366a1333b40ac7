//! The gateway that `kafka-envelope generate` and `listen` register with.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

/// A request as the gateway got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    /// None where there is none.
    pub(crate) content_type: Option<String>,
    pub(crate) body: String,
}

/// A gateway on the loopback that answers every request alike. It ends with this process.
pub(crate) struct Gateway {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Gateway {
    /// With this status, content type and body. Status 0: never.
    pub(crate) fn start(status: u64, content_type: &str, body: &str) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status} Status\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        thread::spawn(move || {
            let mut silent = Vec::new();
            for mut stream in listener.incoming().map_while(Result::ok) {
                let Some(request) = read(&mut stream) else { continue };
                kept.lock().unwrap().push(request);
                if status == 0 {
                    silent.push(stream);
                } else {
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        Gateway { url, requests }
    }

    /// One that knows where Kafka is, and of these topics. Its answer is labelled as the real one's is.
    pub(crate) fn of(broker: &str, topics: &[&str]) -> Gateway {
        let answer = serde_json::json!({"topics": topics, "KAFKA_ENDPOINT": broker});
        Gateway::start(200, "text/html; charset=utf-8", &answer.to_string())
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read(stream: &mut TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        let mut headers = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    let mut words = lines.first()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    Some(Request { method, path, query, content_type: header("content-type"), body: String::from_utf8(body).unwrap() })
}

/// What the generator, the consumer and the gateway of ODA really sent, answered and did.
pub(crate) fn oda() -> Value {
    serde_json::from_str(include_str!("../../data/oda_wire.json")).unwrap()
}
