use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use uuid::Uuid;

use super::{PATIENCE, eventually, kafka, leash::Leashed, small_disk::SmallDisk, unique};

/// The broker of everything that only needs one: `KAFKA_BOOTSTRAP_SERVERS`, else started once for this process and gone with it.
pub(crate) fn shared_broker() -> &'static str {
    static NAMED: OnceLock<Option<String>> = OnceLock::new();
    static OWN: OnceLock<Broker> = OnceLock::new();
    let named = NAMED.get_or_init(|| env::var("KAFKA_BOOTSTRAP_SERVERS").ok().filter(|servers| !servers.is_empty()));
    match named {
        Some(servers) => servers,
        None => OWN.get_or_init(Broker::start).bootstrap(),
    }
}

/// An Apache Kafka of a test's own, in KRaft mode, on the loopback: broker and controller in one child process.
///
/// Dropped, it is killed and its directory removed.
pub(crate) struct Broker {
    process: Option<Leashed>,
    node: i32,
    bootstrap: String,
    dir: PathBuf,
    /// Where its data is kept, if that is not the machine's own disk.
    disk: Option<SmallDisk>,
}

/// Where a broker stands: its ports, and among whom it elects a controller.
pub(super) struct Place<'a> {
    pub(super) node: i32,
    pub(super) port: u16,
    pub(super) controller: u16,
    pub(super) voters: &'a str,
    /// More listeners, by name and port.
    pub(super) listeners: &'a [(&'a str, u16)],
}

impl Broker {
    pub(crate) fn start() -> Broker {
        Broker::start_with(&[])
    }

    /// `settings` win over `scripts/kafka.properties` and over what is set here. `{bootstrap}` in a value is where clients
    /// reach it.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Broker {
        Broker::start_on(free_port(), &[], settings)
    }

    /// The same on a port that is known before.
    pub(crate) fn start_at(port: u16, settings: &[(&str, &str)]) -> Broker {
        Broker::start_on(port, &[], settings)
    }

    /// The same with more listeners, by name and port. What protocol they speak the settings say.
    pub(crate) fn start_listening(listeners: &[(&str, u16)], settings: &[(&str, &str)]) -> Broker {
        Broker::start_on(free_port(), listeners, settings)
    }

    fn start_on(port: u16, listeners: &[(&str, u16)], settings: &[(&str, &str)]) -> Broker {
        let controller = free_port();
        let voters = format!("1@127.0.0.1:{controller}");
        let mut broker = Broker::prepare(&Place { node: 1, port, controller, voters: &voters, listeners }, settings);
        broker.format(&cluster_id());
        broker.run();
        broker
    }

    /// One with its directory and settings, which has to be formatted.
    pub(super) fn prepare(place: &Place<'_>, settings: &[(&str, &str)]) -> Broker {
        let Place { node, port, controller, voters, listeners } = *place;
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("broker"));
        fs::create_dir_all(&dir).unwrap();
        let bootstrap = format!("127.0.0.1:{port}");
        let broker = Broker { process: None, node, bootstrap, dir, disk: None };

        let common = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kafka.properties");
        let mut properties = fs::read_to_string(common).unwrap();
        let bootstrap = &broker.bootstrap;
        let data = broker.dir.join("data");
        let more: String = listeners.iter().map(|(name, port)| format!(",{name}://127.0.0.1:{port}")).collect();
        properties += &format!(
            "node.id={node}\n\
             listeners=PLAINTEXT://{bootstrap},CONTROLLER://127.0.0.1:{controller}{more}\n\
             advertised.listeners=PLAINTEXT://{bootstrap}{more}\n\
             controller.quorum.voters={voters}\n\
             log.dirs={}\n",
            data.display()
        );
        for (key, value) in settings {
            properties += &format!("{key}={}\n", value.replace("{bootstrap}", bootstrap));
        }
        fs::write(broker.properties(), properties).unwrap();
        broker
    }

    /// A setting for its next start.
    pub(crate) fn set(&self, key: &str, value: &str) {
        let mut properties = OpenOptions::new().append(true).open(self.properties()).unwrap();
        writeln!(properties, "{key}={value}").unwrap();
    }

    /// One that has only so many megabytes for its data. The error says why this machine cannot have it.
    pub(crate) fn start_on_small_disk(megabytes: u32) -> Result<Broker, String> {
        let controller = free_port();
        let voters = format!("1@127.0.0.1:{controller}");
        let place = Place { node: 1, port: free_port(), controller, voters: &voters, listeners: &[] };
        let mut broker = Broker::prepare(&place, &[]);
        let data = broker.dir.join("data");
        fs::create_dir_all(&data).unwrap();
        broker.disk = Some(SmallDisk::at(&data, megabytes)?);
        broker.format(&cluster_id());
        broker.run();
        Ok(broker)
    }

    pub(crate) fn disk(&self) -> &SmallDisk {
        self.disk.as_ref().expect("a disk of its own")
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        let ended = self.process.as_mut().is_some_and(|process| process.ended().is_some());
        if ended {
            self.process = None;
        }
        ended
    }

    /// The same on the same port, with what is on its disk. It must have been killed or stopped.
    pub(crate) fn restart(&mut self) {
        self.run();
    }

    /// From its next start on it is found on another port, and on the old one no more.
    pub(crate) fn move_away(&mut self) {
        let (old, new) = (self.bootstrap.clone(), format!("127.0.0.1:{}", free_port()));
        let properties = fs::read_to_string(self.properties()).unwrap();
        fs::write(self.properties(), properties.replace(&old, &new)).unwrap();
        self.bootstrap = new;
    }

    pub(crate) fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// SIGKILL: nothing is flushed, no connection is closed in order.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the broker runs").kill9();
    }

    /// SIGTERM, and waits for the orderly end.
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("the broker runs");
        process.signal("TERM");
        process.wait(PATIENCE, "the broker ends after SIGTERM");
    }

    /// SIGSTOP: connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.running().signal("STOP");
    }

    /// SIGCONT: it goes on, and what was sent meanwhile is answered.
    pub(crate) fn thaw(&self) {
        self.running().signal("CONT");
    }

    /// Frozen or not.
    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// All that it and the formatting printed.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    fn running(&self) -> &Leashed {
        self.process.as_ref().expect("the broker runs")
    }

    fn properties(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    /// Runs one of Kafka's own programs to its end. `{bootstrap}` in an argument is where this broker is reached.
    pub(crate) fn tool(&self, class: &str, arguments: &[&str]) {
        let arguments: Vec<_> =
            arguments.iter().map(|argument| argument.replace("{bootstrap}", &self.bootstrap)).collect();
        let mut tool = self.spawn(class, &arguments);
        let status = tool.wait(PATIENCE, class);
        assert!(status.success(), "{class}: {status}\n{}", self.log_tail());
    }

    fn command(&self) -> Command {
        let prefix = self.disk.as_ref().map(SmallDisk::prefix).unwrap_or_default();
        let Some((first, rest)) = prefix.split_first() else { return Command::new(java()) };
        let mut command = Command::new(first);
        command.args(rest).arg(java());
        command
    }

    fn spawn<A: AsRef<std::ffi::OsStr>>(&self, class: &str, arguments: &[A]) -> Leashed {
        let (mut java, jars) = (self.command(), jars());
        // Short-lived, often several at a time: the cheap compiler and collector start 30 % faster.
        java.args(["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        // Where it is missing or does not fit, Java goes on without.
        let archive = jars.with_file_name("kafka.jsa");
        if archive.exists() {
            java.arg(format!("-XX:SharedArchiveFile={}", archive.display()));
        }
        java.arg("-cp").arg(jars.join("*")).arg(class).args(arguments);
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("log")).unwrap();
        Leashed::spawn(&java, Some(log), Some(&self.dir))
    }

    pub(super) fn format(&self, cluster: &str) {
        let properties = self.properties().display().to_string();
        self.tool("kafka.tools.StorageTool", &["format", "-t", cluster, "-c", &properties]);
    }

    fn run(&mut self) {
        self.launch();
        self.until_it_answers();
    }

    /// Starts it, and does not wait for it.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "the broker still runs");
        self.process = Some(self.spawn("kafka.Kafka", &[self.properties()]));
    }

    /// Until clients can use it.
    #[track_caller]
    pub(crate) fn until_it_answers(&mut self) {
        let process = self.process.as_mut().expect("the broker runs");
        let mut ended = None;
        let deadline = Instant::now() + PATIENCE;
        let probe: BaseConsumer = kafka::client(&self.bootstrap).create().unwrap();
        let answers = eventually(PATIENCE * 2, "the broker answers, ends or is late", || {
            ended = process.ended();
            if ended.is_some() || Instant::now() > deadline {
                return Some(false);
            }
            // A connection refused costs librdkafka a backoff: it asks once somebody listens.
            TcpStream::connect(&self.bootstrap).ok()?;
            let metadata = probe.fetch_metadata(None, Duration::from_secs(5)).ok()?;
            metadata.brokers().iter().any(|broker| broker.id() == self.node).then_some(true)
        });
        if !answers {
            drop(self.process.take());
            panic!("no broker within {PATIENCE:?} ({ended:?}); its log ends:\n{}", self.log_tail());
        }
    }

    /// The last lines of the log, after the errors in it.
    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let (before, tail) = lines.split_at(lines.len().saturating_sub(40));
        let errors =
            before.iter().filter(|line| ["ERROR", "FATAL", "Exception"].iter().any(|word| line.contains(word)));
        errors.take(20).chain(tail).copied().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of broker {} ends:\n{}", self.bootstrap, self.log_tail());
        }
        // Before its directory.
        drop(self.process.take());
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Below the range from which the system takes the ports of outgoing connections: else a client that tries the port of a killed
/// broker again and again could be given that very port, connect to itself, and keep the broker from coming back.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU16::new(Uuid::new_v4().as_fields().1));
    (0..COUNT)
        .map(|_| FIRST + next.fetch_add(1, Ordering::Relaxed) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

/// Kafka's ids are base64url; this one has no character that hex does not have.
pub(super) fn cluster_id() -> String {
    format!("{}A", &Uuid::new_v4().simple().to_string()[..21])
}

fn java() -> PathBuf {
    env::var_os("JAVA_HOME")
        .map(|home| Path::new(&home).join("bin/java"))
        .filter(|java| java.exists())
        .unwrap_or_else(|| "java".into())
}

/// `KAFKA_ENVELOPE_KAFKA_LIBS`, else what `scripts/kafka.sh` left below the target directory.
fn jars() -> PathBuf {
    if let Some(jars) = env::var_os("KAFKA_ENVELOPE_KAFKA_LIBS") {
        return jars.into();
    }
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("kafka");
    let versions = fs::read_dir(&kept).into_iter().flatten().flatten();
    versions.map(|version| version.path().join("libs")).filter(|libs| libs.is_dir()).max().unwrap_or_else(|| {
        panic!(
            "this test needs Apache Kafka and found none in {}: run `bash scripts/test.sh`, which gets it",
            kept.display()
        )
    })
}
