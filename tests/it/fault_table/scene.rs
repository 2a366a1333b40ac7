//! A topic under load, services that handle it, and what is seen of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kafka_envelope::Producer;

use super::checker::{Evidence, Place, Verdict};
use super::history::{Line, Micros, Offsets, Reading, What};
use super::load::Load;
use super::log_of_topic::log_of;
use super::service::Service;
use super::watcher::Watcher;
use crate::support::proxy::Proxy;
use crate::support::{Broker, Worker, create_topic_with, eventually, unique};

/// Longer than any row takes: it is the patience that ends a wait.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// What a scene begins with.
pub(super) struct Setup<'a> {
    pub(super) bootstrap: &'a str,
    /// Under which the services reach the broker, where a proxy stands between.
    pub(super) services_bootstrap: Option<&'a str>,
    /// The same for the producer, and what it is set to.
    pub(super) load_bootstrap: Option<&'a str>,
    pub(super) load_config: &'a [(&'a str, &'a str)],
    pub(super) partitions: i32,
    pub(super) records: usize,
    /// Records a second that are produced; without as fast as it goes.
    pub(super) rate: Option<usize>,
    pub(super) topic_settings: &'a [(&'a str, &'a str)],
    /// The partitions whose commits are watched, where there will be more later.
    pub(super) partitions_later: Option<i32>,
}

impl<'a> Setup<'a> {
    pub(super) fn new(bootstrap: &'a str, records: usize) -> Setup<'a> {
        Setup {
            bootstrap,
            services_bootstrap: None,
            load_bootstrap: None,
            load_config: &[],
            partitions: 6,
            records,
            rate: None,
            topic_settings: &[],
            partitions_later: None,
        }
    }

    pub(super) fn rate(self, rate: usize) -> Setup<'a> {
        Setup { rate: Some(rate), ..self }
    }

    /// Services and producer go through a proxy; the watcher, and who reads the log at the end, do not.
    pub(super) fn through(self, proxy: &'a Proxy) -> Setup<'a> {
        let way = Some(proxy.address());
        Setup { services_bootstrap: way, load_bootstrap: way, ..self }
    }
}

pub(super) struct Scene {
    pub(super) bootstrap: String,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) load: Load,
    /// Later ones, of the generations from 1 on.
    pub(super) more_loads: Vec<Load>,
    pub(super) watcher: Watcher,
    /// What every service of this scene starts from.
    pub(super) service: Service,
    dir: PathBuf,
    services: Vec<Running>,
    /// Gone after all that uses it.
    broker: Option<Broker>,
}

/// A service that was started, and what it wrote.
pub(super) struct Running {
    pub(super) worker: Worker,
    reading: Reading,
    handled: usize,
}

impl Scene {
    /// Makes the topic and starts to produce. No service runs yet.
    pub(super) fn start(setup: Setup<'_>) -> Scene {
        let Setup {
            bootstrap,
            services_bootstrap,
            load_bootstrap,
            load_config,
            partitions,
            records,
            rate,
            topic_settings,
            partitions_later,
        } = setup;
        let (topic, group) = (unique("topic"), unique("group"));
        create_topic_with(bootstrap, &topic, partitions, topic_settings);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique("faults"));
        fs::create_dir_all(&dir).unwrap();
        let producer =
            Producer::builder("load", load_bootstrap.unwrap_or(bootstrap)).config(load_config.iter().copied());
        let producer = producer.build().unwrap();
        Scene {
            bootstrap: bootstrap.into(),
            load: Load::start_with(producer, &topic, partitions, records, rate),
            watcher: Watcher::start(bootstrap, &group, &topic, partitions_later.unwrap_or(partitions)),
            more_loads: Vec::new(),
            service: Service::new(services_bootstrap.unwrap_or(bootstrap), &topic, &group),
            topic,
            group,
            dir,
            services: Vec::new(),
            broker: None,
        }
    }

    /// The broker that this runs on ends with it.
    pub(super) fn keep(&mut self, broker: Broker) {
        self.broker = Some(broker);
    }

    /// Starts one more service, and returns its number.
    pub(super) fn spawn(&mut self) -> usize {
        let service = self.service.clone();
        self.spawn_as(service)
    }

    pub(super) fn spawn_as(&mut self, mut service: Service) -> usize {
        service.history = self.dir.join(self.services.len().to_string());
        let reading = Reading::of(service.history.clone());
        self.services.push(Running { worker: service.spawn(), reading, handled: 0 });
        self.services.len() - 1
    }

    pub(super) fn worker(&mut self, number: usize) -> &mut Worker {
        &mut self.services[number].worker
    }

    /// What a service wrote so far.
    pub(super) fn lines(&mut self, number: usize) -> &[Line] {
        self.read_on();
        &self.services[number].reading.lines
    }

    /// How often a record was handled, by whomever.
    pub(super) fn handled(&mut self) -> usize {
        self.read_on();
        self.services.iter().map(|service| service.handled).sum()
    }

    pub(super) fn handled_by(&mut self, number: usize) -> usize {
        self.read_on();
        self.services[number].handled
    }

    /// Until a service has handled so many records since now.
    #[track_caller]
    pub(super) fn until_it_handles(&mut self, number: usize, records: usize, deadline: Duration) {
        let before = self.handled_by(number);
        let what = format!("service {number} handles {records} records");
        eventually(deadline, &what, || (self.handled_by(number) >= before + records).then_some(()));
    }

    /// Until each of these services has handled so many records more: none of them has ended, or gets nothing any more.
    #[track_caller]
    pub(super) fn until_all_handle(&mut self, numbers: &[usize], records: usize, deadline: Duration) {
        for number in numbers {
            self.until_it_handles(*number, records, deadline);
        }
    }

    /// Until a service has so many partitions, since the rebalance that it saw last.
    #[track_caller]
    pub(super) fn until_it_is_assigned(&mut self, number: usize, partitions: usize, deadline: Duration) {
        let what = format!("service {number} has {partitions} partitions");
        eventually(deadline, &what, || {
            let mut owned: BTreeSet<i32> = BTreeSet::new();
            for line in self.lines(number) {
                match &line.what {
                    What::Assigned { partitions } => owned.extend(partitions),
                    What::Revoked { partitions } | What::Lost { partitions } => {
                        owned.retain(|partition| !partitions.contains(partition));
                    }
                    _ => {}
                }
            }
            (owned.len() == partitions).then_some(())
        });
    }

    /// Until so many records were handled in all since now.
    #[track_caller]
    pub(super) fn until_handled(&mut self, records: usize, deadline: Duration) {
        let before = self.handled();
        eventually(deadline, "records are handled", || (self.handled() >= before + records).then_some(()));
    }

    /// Whether a service has begun and handled a batch since then.
    pub(super) fn has_handled_since(&mut self, number: usize, since: Micros) -> bool {
        let is_later = |line: &Line| matches!(line.what, What::Handled { began, .. } if began > since);
        self.lines(number).iter().any(is_later)
    }

    /// Ends all loads where they are, and returns how many records they have.
    #[track_caller]
    pub(super) fn end_loads(&mut self, patience: Duration) -> usize {
        self.loads().for_each(Load::stop);
        let mut last = (0, Instant::now());
        eventually(FOR_EVER, "the loads end", || {
            let reported = self.reported();
            if reported != last.0 {
                last = (reported, Instant::now());
            }
            assert!(last.1.elapsed() < patience, "no record is reported since {patience:?}");
            self.loads().all(Load::is_done).then_some(())
        });
        self.reported()
    }

    /// Tells a service to end, and waits for that, whatever it answers. It may take so long.
    #[track_caller]
    pub(super) fn end_within(&mut self, number: usize, bound: Duration) {
        let began = Instant::now();
        self.worker(number).sigterm();
        self.worker(number).wait(bound + Duration::from_secs(10));
        assert!(began.elapsed() < bound, "service {number} ended after {:?}", began.elapsed());
    }

    /// What services logged, of level warn or error, that has this text in it.
    pub(super) fn logged(&mut self, text: &str) -> Vec<String> {
        self.read_on();
        let lines = self.services.iter().flat_map(|service| &service.reading.lines);
        let logged = lines.filter_map(|line| match &line.what {
            What::Logged { line } if line.contains(text) => Some(line.clone()),
            _ => None,
        });
        logged.collect()
    }

    /// Produces once more, beside what may still be produced.
    pub(super) fn load_again(&mut self, partitions: i32, records: usize, rate: Option<usize>) {
        let generation = self.more_loads.len() + 1;
        let load = Load::of_generation(generation, &self.bootstrap, &self.topic, partitions, records, rate);
        self.more_loads.push(load);
    }

    fn loads(&self) -> impl Iterator<Item = &Load> {
        std::iter::once(&self.load).chain(&self.more_loads)
    }

    /// How many records are acknowledged or reported as failed.
    pub(super) fn reported(&self) -> usize {
        self.loads().map(Load::reported).sum()
    }

    /// Waits for the end of the load, and until all of the log is committed. Then stops all services that still run, and
    /// checks. `patience` is for a time in which nothing goes on.
    #[track_caller]
    pub(super) fn finish(self, patience: Duration) -> Verdict {
        self.finish_with(patience, |_| ())
    }

    /// The same where some of it is to be seen in another light.
    #[track_caller]
    pub(super) fn finish_with(mut self, patience: Duration, see: impl FnOnce(&mut Evidence)) -> Verdict {
        let log = self.until_committed(patience);
        self.stop_services();
        let mut evidence = self.evidence(log);
        see(&mut evidence);
        evidence.check()
    }

    /// Waits for the end of the load, and until all of the log is committed, and returns that. `patience` is for a time in
    /// which nothing goes on.
    #[track_caller]
    pub(super) fn until_committed(&mut self, patience: Duration) -> Vec<Place> {
        let mut ends: Option<(Vec<Place>, BTreeMap<i32, i64>)> = None;
        let mut last = ((0, 0), Instant::now());
        eventually(FOR_EVER, "all is committed", || {
            let now = (self.reported(), self.handled());
            if last.0 != now {
                last = (now, Instant::now());
            }
            assert!(last.1.elapsed() < patience, "nothing since {patience:?}: {now:?} are reported and handled");
            if !self.loads().all(Load::is_done) {
                return None;
            }
            let (_, ends) = ends.get_or_insert_with(|| {
                let log = log_of(&self.bootstrap, &self.topic);
                let mut ends = BTreeMap::new();
                for (partition, offset) in &log {
                    let end = ends.entry(*partition).or_insert(0);
                    *end = (offset + 1).max(*end);
                }
                (log, ends)
            });
            ends.iter().all(|(partition, end)| self.watcher.committed(*partition) >= Some(*end)).then_some(())
        });
        ends.map(|(log, _)| log).unwrap_or_default()
    }

    /// Pauses the load, and waits until all that is acknowledged is committed: the services have nothing to do.
    #[track_caller]
    pub(super) fn rest(&mut self, deadline: Duration) {
        self.load.pause(deadline);
        let mut ends = BTreeMap::new();
        for (partition, offset) in self.load.acknowledged() {
            let end = ends.entry(partition).or_insert(0);
            *end = (offset + 1).max(*end);
        }
        eventually(deadline, "what was produced is committed", || {
            ends.iter().all(|(partition, end)| self.watcher.committed(*partition) >= Some(*end)).then_some(())
        });
    }

    /// All records that were handled.
    pub(super) fn handled_places(&mut self) -> BTreeSet<Place> {
        self.read_on();
        let lines = self.services.iter().flat_map(|service| &service.reading.lines);
        let records = lines.filter_map(|line| match &line.what {
            What::Handled { records, .. } => Some(records),
            _ => None,
        });
        let places = |(partition, (first, last)): &(i32, Offsets)| {
            let partition = *partition;
            (*first..=*last).map(move |offset| (partition, offset))
        };
        records.flatten().flat_map(places).collect()
    }

    /// Tells all that still run to end, and waits for it.
    #[track_caller]
    pub(super) fn stop_services(&mut self) {
        for service in &mut self.services {
            if service.worker.ended().is_none() {
                service.worker.sigterm();
            }
        }
        for service in &mut self.services {
            service.worker.wait(Duration::from_secs(30));
        }
    }

    /// What is known so far, with this log.
    pub(super) fn evidence(&mut self, log: Vec<Place>) -> Evidence {
        self.read_on();
        Evidence {
            log,
            acknowledged: self.loads().flat_map(Load::acknowledged).collect(),
            unplaced: self.loads().map(Load::unplaced).sum(),
            services: self.services.iter().map(|service| service.reading.lines.clone()).collect(),
            committed: self.watcher.seen(),
            accepted: None,
        }
    }

    fn read_on(&mut self) {
        for service in &mut self.services {
            let before = service.reading.read_on();
            for line in &service.reading.lines[before..] {
                let What::Handled { records, .. } = &line.what else { continue };
                service.handled += records.iter().map(count).sum::<usize>();
            }
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.read_on();
            for (number, service) in self.services.iter().enumerate() {
                let is_handled = |line: &&Line| matches!(line.what, What::Handled { .. });
                let (handled, others): (Vec<_>, Vec<_>) = service.reading.lines.iter().rev().partition(is_handled);
                eprintln!("service {number}, the last first:");
                for line in handled.iter().take(3).chain(others.iter().take(30)) {
                    eprintln!("{line:?}");
                }
            }
        }
        // They write there.
        self.services.clear();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn count((_, (first, last)): &(i32, Offsets)) -> usize {
    (last - first + 1) as usize
}
