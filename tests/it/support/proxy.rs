use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::broker::{Broker, free_port};

const METADATA: i16 = 3;

/// A way to a broker that can take the brokers out of the answers to questions for metadata, as if all were fenced.
///
/// The broker names it as its own address, so that no client finds another way. It ends with this process.
pub(crate) struct Proxy {
    address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    hides: AtomicBool,
    /// How many answers without brokers each client got.
    hidden: Mutex<BTreeMap<String, u32>>,
}

/// The clients that asked for metadata, with the version of their question, by its correlation id.
type Questions = Arc<Mutex<HashMap<i32, (String, i16)>>>;

impl Proxy {
    pub(crate) fn start() -> (Proxy, Broker) {
        let listener = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (port, state) = (free_port(), Arc::new(State::default()));
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A broker that is gone is a connection that ends.
                let _ = accepting.lead(client, port);
            }
        });
        let broker = Broker::start_at(port, &[("advertised.listeners", &format!("PLAINTEXT://{address}"))]);
        (Proxy { address, state }, broker)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn hide_brokers(&self, hides: bool) {
        self.state.hides.store(hides, Ordering::SeqCst);
    }

    /// How many answers without brokers this client got.
    pub(crate) fn hidden_from(&self, client: &str) -> u32 {
        self.state.hidden.lock().unwrap().get(client).copied().unwrap_or(0)
    }
}

impl State {
    fn lead(self: &Arc<Self>, client: TcpStream, port: u16) -> Result<()> {
        let broker = TcpStream::connect(("127.0.0.1", port))?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let questions = Questions::default();
        let (state, noted) = (Arc::clone(self), Arc::clone(&questions));
        let (from, to) = (client.try_clone()?, broker.try_clone()?);
        thread::spawn(move || pass(from, to, |frame| note(&questions, frame)));
        thread::spawn(move || pass(broker, client, |frame| state.answer(&noted, frame)));
        Ok(())
    }

    fn answer(&self, questions: &Questions, frame: Vec<u8>) -> Vec<u8> {
        let correlation = i32::from_be_bytes(frame[..4].try_into().unwrap());
        let Some((client, version)) = questions.lock().unwrap().remove(&correlation) else { return frame };
        if !self.hides.load(Ordering::SeqCst) {
            return frame;
        }
        assert!((9..=13).contains(&version), "metadata of version {version}");
        *self.hidden.lock().unwrap().entry(client).or_default() += 1;
        without_brokers(&frame)
    }
}

fn note(questions: &Questions, frame: Vec<u8>) -> Vec<u8> {
    let short = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]);
    if short(0) == METADATA {
        let correlation = i32::from_be_bytes(frame[4..8].try_into().unwrap());
        let client = usize::try_from(short(8)).map_or(&[][..], |length| &frame[10..10 + length]);
        let client = String::from_utf8(client.to_vec()).unwrap();
        questions.lock().unwrap().insert(correlation, (client, short(2)));
    }
    frame
}

/// Passes frame after frame on, until either side ends.
fn pass(mut from: TcpStream, mut to: TcpStream, mut each: impl FnMut(Vec<u8>) -> Vec<u8>) {
    let mut one = || -> Result<()> {
        let mut size = [0; 4];
        from.read_exact(&mut size)?;
        let mut frame = vec![0; u32::from_be_bytes(size) as usize];
        from.read_exact(&mut frame)?;
        let frame = each(frame);
        to.write_all(&[&(frame.len() as u32).to_be_bytes()[..], &frame].concat())
    };
    while one().is_ok() {}
    for side in [from, to] {
        let _ = side.shutdown(std::net::Shutdown::Both);
    }
}

/// An answer of version 9 to 13: correlation id, no tags, throttle time, then the brokers.
fn without_brokers(frame: &[u8]) -> Vec<u8> {
    const BROKERS: usize = 4 + 1 + 4;
    let mut at = BROKERS;
    let count = varint(frame, &mut at) - 1;
    for _ in 0..count {
        at += 4;
        skip_string(frame, &mut at);
        at += 4;
        skip_string(frame, &mut at);
        assert_eq!(varint(frame, &mut at), 0, "tags of a broker");
    }
    [&frame[..BROKERS], &[1], &frame[at..]].concat()
}

/// A string has a length that is one more than its own; 0 is null.
fn skip_string(frame: &[u8], at: &mut usize) {
    let length = varint(frame, at);
    *at += length.saturating_sub(1);
}

fn varint(frame: &[u8], at: &mut usize) -> usize {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = frame[*at];
        *at += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}
