use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Result, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::broker::{Broker, free_port};
use super::proxy_frames::{api_of, note_of, spoil_sequence, without_brokers};

pub(super) const PRODUCE: i16 = 0;
pub(super) const METADATA: i16 = 3;
pub(crate) const FETCH: i16 = 1;
pub(crate) const OFFSET_COMMIT: i16 = 8;
pub(crate) const OFFSET_FOR_LEADER_EPOCH: i16 = 23;

/// What is slow is passed on in so many pieces a second.
const PIECES: usize = 10;

/// A way to a broker that can be cut, slowed down and blocked, and that can lose, delay and change single answers.
///
/// It understands Kafka's frames. The broker names it as its own address to whoever comes through it, so that no client
/// finds another way. It ends with this process.
pub(crate) struct Proxy {
    address: String,
    state: Arc<State>,
}

/// How bytes get through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Open,
    /// So much later, in either direction.
    Late(Duration),
    /// So many bytes a second, on each connection and in either direction.
    Slow(usize),
    /// What is sent does not arrive, and no connection ends. One that lost something stays silent for ever, also when the
    /// way is open again.
    Hole,
    /// No connection comes about.
    Shut,
}

/// What becomes of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fate {
    Lost,
    /// Others overtake it.
    Late(Duration),
    /// Of the only partition in an answer to [`OFFSET_FOR_LEADER_EPOCH`]: its epoch ends here.
    EndsAt(i64),
}

/// Of the answers to one kind of question every so many-th has this fate.
#[derive(Clone, Copy)]
struct Rule {
    api: i16,
    every: usize,
    fate: Fate,
}

struct State {
    target: Mutex<String>,
    way: Mutex<Way>,
    connections: Mutex<Vec<TcpStream>>,
    rule: Mutex<Option<Rule>>,
    /// How many answers the rule met, and how many had its fate.
    met: AtomicUsize,
    treated: AtomicUsize,
    /// How many questions of each kind came.
    asked: Mutex<BTreeMap<i16, usize>>,
    spoils: AtomicBool,
    hides: AtomicBool,
    /// How many answers without brokers each client got.
    hidden: Mutex<BTreeMap<String, u32>>,
}

/// What was asked on a connection, by correlation id: the kind of question, its version, and the client.
type Questions = Arc<Mutex<HashMap<i32, (i16, i16, String)>>>;

enum Passing {
    Now(Vec<u8>),
    Later(Duration, Vec<u8>),
    Never,
}

impl Proxy {
    /// Before a broker of its own, whose `bootstrap()` leads there directly.
    pub(crate) fn start() -> (Proxy, Broker) {
        Proxy::start_with(&[])
    }

    pub(crate) fn start_with(settings: &[(&str, &str)]) -> (Proxy, Broker) {
        let (own, proxied, controller) = (free_port(), free_port(), free_port());
        let own_settings = [
            ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT".to_owned()),
            (
                "listeners",
                format!("PLAINTEXT://{{bootstrap}},PROXIED://127.0.0.1:{proxied},CONTROLLER://127.0.0.1:{controller}"),
            ),
            ("advertised.listeners", format!("PLAINTEXT://{{bootstrap}},PROXIED://127.0.0.1:{own}")),
            ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
        ];
        let mut all: Vec<_> = own_settings.iter().map(|(key, value)| (*key, &**value)).collect();
        all.extend(settings);
        // Before the broker, which takes ports, too.
        let listener = TcpListener::bind(("127.0.0.1", own)).unwrap();
        let broker = Broker::start_with(&all);
        (Proxy::on(listener, &format!("127.0.0.1:{proxied}")), broker)
    }

    /// Before somebody who does not know of it: clients only find the first way here.
    pub(crate) fn before(target: &str) -> Proxy {
        Proxy::on(TcpListener::bind(("127.0.0.1", free_port())).unwrap(), target)
    }

    fn on(listener: TcpListener, target: &str) -> Proxy {
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State {
            target: Mutex::new(target.to_owned()),
            way: Mutex::new(Way::Open),
            connections: Mutex::default(),
            rule: Mutex::default(),
            met: AtomicUsize::new(0),
            treated: AtomicUsize::new(0),
            asked: Mutex::default(),
            spoils: AtomicBool::new(false),
            hides: AtomicBool::new(false),
            hidden: Mutex::default(),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A broker that is gone is a connection that ends.
                let _ = accepting.lead(client);
            }
        });
        Proxy { address, state }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// From now on connections lead there. Those that are stay.
    pub(crate) fn lead_to(&self, target: &str) {
        *self.state.target.lock().unwrap() = target.to_owned();
    }

    pub(crate) fn set(&self, way: Way) {
        *self.state.way.lock().unwrap() = way;
        if way == Way::Shut {
            self.cut();
        }
    }

    /// Ends all connections, in the middle of whatever they carry.
    pub(crate) fn cut(&self) {
        for connection in self.state.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// From now on every so many-th answer to this kind of question has this fate.
    pub(crate) fn treat(&self, api: i16, every: usize, fate: Fate) {
        *self.state.rule.lock().unwrap() = Some(Rule { api, every, fate });
    }

    /// All answers arrive again.
    pub(crate) fn treat_none(&self) {
        *self.state.rule.lock().unwrap() = None;
    }

    /// How many answers had a fate so far.
    pub(crate) fn treated(&self) -> usize {
        self.state.treated.load(Ordering::SeqCst)
    }

    /// How many questions of this kind came so far.
    pub(crate) fn asked(&self, api: i16) -> usize {
        self.state.asked.lock().unwrap().get(&api).copied().unwrap_or(0)
    }

    /// The next records of an idempotent producer arrive with the number of others, which the broker refuses.
    pub(crate) fn spoil_a_sequence(&self) {
        self.state.spoils.store(true, Ordering::SeqCst);
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
    fn lead(self: &Arc<Self>, client: TcpStream) -> Result<()> {
        if self.way() == Way::Shut {
            return client.shutdown(Shutdown::Both);
        }
        let target = self.target.lock().unwrap().clone();
        let broker = TcpStream::connect(target)?;
        client.set_nodelay(true)?;
        broker.set_nodelay(true)?;
        let ends = [client.try_clone()?, broker.try_clone()?];
        self.connections.lock().unwrap().extend(ends);
        let (questions, is_dead) = (Questions::default(), Arc::new(AtomicBool::new(false)));
        let (from, to) = (client.try_clone()?, broker.try_clone()?);
        let (state, noted, dead) = (Arc::clone(self), Arc::clone(&questions), Arc::clone(&is_dead));
        thread::spawn(move || state.pass(from, to, &dead, |frame| state.ask(&noted, frame)));
        let state = Arc::clone(self);
        thread::spawn(move || state.pass(broker, client, &is_dead, |frame| state.answer(&questions, frame)));
        Ok(())
    }

    fn way(&self) -> Way {
        *self.way.lock().unwrap()
    }

    fn ask(&self, questions: &Questions, mut frame: Vec<u8>) -> Passing {
        let (correlation, question) = note_of(&frame);
        let spoils = api_of(&frame) == PRODUCE && self.spoils.swap(false, Ordering::SeqCst);
        if spoils && !spoil_sequence(&mut frame) {
            self.spoils.store(true, Ordering::SeqCst);
        }
        *self.asked.lock().unwrap().entry(question.0).or_default() += 1;
        questions.lock().unwrap().insert(correlation, question);
        Passing::Now(frame)
    }

    fn answer(&self, questions: &Questions, mut frame: Vec<u8>) -> Passing {
        let correlation = i32::from_be_bytes(frame[..4].try_into().unwrap());
        let Some((api, version, client)) = questions.lock().unwrap().remove(&correlation) else {
            return Passing::Now(frame);
        };
        if api == METADATA && self.hides.load(Ordering::SeqCst) {
            assert!((9..=13).contains(&version), "metadata of version {version}");
            *self.hidden.lock().unwrap().entry(client).or_default() += 1;
            return Passing::Now(without_brokers(&frame));
        }
        let rule = *self.rule.lock().unwrap();
        let Some(rule) = rule.filter(|rule| rule.api == api) else { return Passing::Now(frame) };
        if (self.met.fetch_add(1, Ordering::SeqCst) + 1) % rule.every != 0 {
            return Passing::Now(frame);
        }
        self.treated.fetch_add(1, Ordering::SeqCst);
        match rule.fate {
            Fate::Lost => Passing::Never,
            Fate::Late(time) => Passing::Later(time, frame),
            Fate::EndsAt(offset) => {
                assert!(version < 4, "an answer of version {version} ends otherwise");
                let end = frame.len() - 8;
                frame[end..].copy_from_slice(&offset.to_be_bytes());
                Passing::Now(frame)
            }
        }
    }

    /// Passes frame after frame on, until either side ends.
    fn pass(
        self: &Arc<Self>,
        mut from: TcpStream,
        to: TcpStream,
        is_dead: &Arc<AtomicBool>,
        mut each: impl FnMut(Vec<u8>) -> Passing,
    ) {
        let to = Arc::new(Mutex::new(to));
        let (queue, due) = channel::<(Instant, Vec<u8>)>();
        let (state, dead, target) = (Arc::clone(self), Arc::clone(is_dead), Arc::clone(&to));
        let writer = thread::spawn(move || {
            for (at, frame) in due {
                wait_until(at);
                if state.write(&target, &frame, &dead).is_err() {
                    return;
                }
            }
        });
        while let Ok(frame) = read(&mut from) {
            let now = Instant::now();
            let late = match self.way() {
                Way::Late(time) => time,
                _ => Duration::ZERO,
            };
            match each(frame) {
                Passing::Never => {}
                Passing::Now(frame) => {
                    if queue.send((now + late, frame)).is_err() {
                        break;
                    }
                }
                Passing::Later(time, frame) => {
                    let (state, dead, target) = (Arc::clone(self), Arc::clone(is_dead), Arc::clone(&to));
                    thread::spawn(move || {
                        wait_until(now + time);
                        // The connection may be gone.
                        let _ = state.write(&target, &frame, &dead);
                    });
                }
            }
        }
        drop(queue);
        let _ = from.shutdown(Shutdown::Both);
        // In a hole nobody hears of the other's end.
        if self.way() != Way::Hole && !is_dead.load(Ordering::SeqCst) {
            let _ = writer.join();
            let _ = to.lock().unwrap().shutdown(Shutdown::Both);
        }
    }

    fn write(&self, to: &Mutex<TcpStream>, frame: &[u8], is_dead: &AtomicBool) -> Result<()> {
        let mut to = to.lock().unwrap();
        let whole = [&(frame.len() as u32).to_be_bytes()[..], frame].concat();
        let mut rest = &whole[..];
        while !rest.is_empty() {
            let piece = match self.way() {
                Way::Hole => {
                    is_dead.store(true, Ordering::SeqCst);
                    return Ok(());
                }
                _ if is_dead.load(Ordering::SeqCst) => return Ok(()),
                Way::Slow(rate) => {
                    wait_until(Instant::now() + Duration::from_secs(1) / PIECES as u32);
                    (rate / PIECES).clamp(1, rest.len())
                }
                Way::Open | Way::Late(_) | Way::Shut => rest.len(),
            };
            to.write_all(&rest[..piece])?;
            rest = &rest[piece..];
        }
        Ok(())
    }
}

fn read(from: &mut TcpStream) -> Result<Vec<u8>> {
    let mut size = [0; 4];
    from.read_exact(&mut size)?;
    let mut frame = vec![0; u32::from_be_bytes(size) as usize];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn wait_until(at: Instant) {
    while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}
