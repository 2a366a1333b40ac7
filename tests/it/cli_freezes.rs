//! A broker that freezes just when it is asked for records: whatever of `kafka-envelope` reads ends within its timeout.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::support::broker::free_port;
use super::support::cli::{cli, command};
use super::support::{Broker, create_topic, eventually, group, kafka, produce_numbers};

const FETCH: [u8; 2] = [0, 1];

/// Stands before a broker.
struct Gate {
    address: String,
    is_armed: Arc<AtomicBool>,
    is_closed: Arc<AtomicBool>,
}

impl Gate {
    /// A broker that all reach through the gate alone.
    fn start() -> (Broker, Self) {
        let address = format!("127.0.0.1:{}", free_port());
        let broker = Broker::start_with(&[("advertised.listeners", &format!("PLAINTEXT://{address}"))]);
        let gate = Self { address, is_armed: Arc::default(), is_closed: Arc::default() };
        let listener = TcpListener::bind(&gate.address).unwrap();
        let (to, is_armed, is_closed) =
            (broker.bootstrap().to_owned(), Arc::clone(&gate.is_armed), Arc::clone(&gate.is_closed));
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(&to) else { continue };
                let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (is_armed, is_closed) = (Arc::clone(&is_armed), Arc::clone(&is_closed));
                thread::spawn(move || requests(client, server, &is_armed, &is_closed));
                thread::spawn(move || io::copy(&mut &ends.1, &mut &ends.0));
            }
        });
        (broker, gate)
    }

    /// Closes with the next request for records.
    fn arm(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
        self.is_armed.store(true, Ordering::SeqCst);
    }
}

/// Passes requests on until the gate is closed. Connections stay open.
fn requests(mut from: TcpStream, mut to: TcpStream, is_armed: &AtomicBool, is_closed: &AtomicBool) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        from.read_exact(&mut request)?;
        if request.starts_with(&FETCH) && is_armed.swap(false, Ordering::SeqCst) {
            is_closed.store(true, Ordering::SeqCst);
        }
        if !is_closed.load(Ordering::SeqCst) {
            to.write_all(&length)?;
            to.write_all(&request)?;
        }
    }
}

#[test]
fn whatever_reads_ends_within_the_timeout() {
    let (_broker, gate) = Gate::start();
    let (topic, group) = (create_topic(&gate.address, 1), group());
    produce_numbers(&gate.address, &topic, 0, 0..10);
    let consumer: BaseConsumer = kafka::client(&gate.address).set("group.id", &group).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&topic, 0, Offset::Offset(3)).unwrap();
    eventually(Duration::from_secs(30), "the offset is committed", || consumer.commit(&offsets, CommitMode::Sync).ok());
    let place = format!("{topic}:0:5");
    let commands: [&[&str]; 8] = [
        &["consume", &topic],
        &["consume", &topic, "--group", &group, "--commit"],
        &["trace", &place],
        &["trace", &place, "--descendants", &topic],
        &["dlt", "list", &topic],
        &["dlt", "show", &topic, "0:5"],
        &["dlt", "redrive", &topic, "--dry-run"],
        &["lag", &group],
    ];
    for command in commands {
        gate.arm();
        let start = Instant::now();
        let ran = cli(&[command, &["-b", &gate.address, "--connect-timeout", "2"]].concat());
        let took = start.elapsed();
        assert!(gate.is_closed.load(Ordering::SeqCst), "{command:?}: {}", ran.stderr);
        assert!(took < Duration::from_secs(12), "{command:?}: {took:?}");
        ran.bad(1, &[&format!("no broker of `{}` answers", gate.address)]);
    }
}

/// What is still written to a partition that was read to its end does not hide that another one's broker is frozen.
#[test]
fn one_of_two_brokers_freezes_while_the_other_gets_more() {
    let cluster = MockCluster::new(2).unwrap();
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("numbers", 2, 1).unwrap();
    cluster.partition_leader("numbers", 0, Some(1)).unwrap();
    cluster.partition_leader("numbers", 1, Some(2)).unwrap();
    let producer: BaseProducer = kafka::client(&brokers).create().unwrap();
    let send = |partition: i32| {
        let value = "x".repeat(1_000);
        producer.send(BaseRecord::<(), _>::to("numbers").partition(partition).payload(&value)).unwrap();
    };
    (0..3_000).for_each(|_| send(0));
    send(1);
    producer.flush(Duration::from_secs(30)).unwrap();
    // So that it fetches little more than what is read of its output.
    let few = ["queued.min.messages=1", "queued.max.messages.kbytes=8", "fetch.message.max.bytes=8192"];
    let few = few.iter().flat_map(|property| ["--config", *property]);
    let arguments = ["consume", "numbers", "--raw", "-b", &brokers, "--connect-timeout", "2"];
    let arguments: Vec<&str> = arguments.into_iter().chain(few).collect();
    let mut child = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut String::new()).unwrap();
    cluster.broker_round_trip_time(1, Duration::from_secs(3_600)).unwrap();
    let reading = thread::spawn(move || io::copy(&mut output, &mut io::sink()));
    let start = Instant::now();
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break Some(ended);
        }
        if start.elapsed() > Duration::from_secs(20) {
            break None;
        }
        send(1);
        producer.poll(Duration::from_millis(20));
    };
    let _ = child.kill();
    child.wait().unwrap();
    reading.join().unwrap().unwrap();
    assert_eq!(ended.and_then(|ended| ended.code()), Some(1), "{ended:?}");
}
