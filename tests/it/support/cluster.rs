//! Three brokers that hold each record together.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::metadata::MetadataPartition;
use rdkafka::types::RDKafkaRespErr;

use super::broker::{Broker, Place, cluster_id, free_port};
use super::{PATIENCE, eventually, kafka};

const NODES: i32 = 3;
const REQUEST: Duration = Duration::from_secs(5);

/// Three replicas of everything, of which two take a record before it is acknowledged.
const SETTINGS: [(&str, &str); 6] = [
    ("default.replication.factor", "3"),
    ("min.insync.replicas", "2"),
    ("offsets.topic.replication.factor", "3"),
    ("transaction.state.log.replication.factor", "3"),
    ("transaction.state.log.min.isr", "2"),
    // A follower that stopped is soon left out of the replicas in sync (default: 30 s).
    ("replica.lag.time.max.ms", "5000"),
];

/// An Apache Kafka of three nodes, each broker and controller in a process of its own, in one quorum: it stands one that
/// is gone. Nodes are counted from 1, as Kafka's `node.id`.
pub(crate) struct Cluster {
    brokers: Vec<Broker>,
    /// Through whichever node answers.
    probe: BaseConsumer,
}

impl Cluster {
    pub(crate) fn start() -> Cluster {
        Cluster::start_with(&[])
    }

    /// `settings` win over what is set here.
    pub(crate) fn start_with(settings: &[(&str, &str)]) -> Cluster {
        let controllers: Vec<_> = (0..NODES).map(|_| free_port()).collect();
        let voters: Vec<_> = (1..).zip(&controllers).map(|(node, port)| format!("{node}@127.0.0.1:{port}")).collect();
        let (voters, settings) = (voters.join(","), [&SETTINGS, settings].concat());
        let prepare = |(node, controller): (i32, &u16)| {
            let place = Place { node, port: free_port(), controller: *controller, voters: &voters, listeners: &[] };
            Broker::prepare(&place, &settings)
        };
        let mut brokers: Vec<_> = (1..).zip(&controllers).map(prepare).collect();
        let id = cluster_id();
        std::thread::scope(|scope| brokers.iter().for_each(|broker| drop(scope.spawn(|| broker.format(&id)))));
        // One alone waits for the others.
        brokers.iter_mut().for_each(Broker::launch);
        brokers.iter_mut().for_each(Broker::until_it_answers);
        // It soon leaves a node that is frozen.
        let probe = kafka::client(&bootstrap(&brokers)).set("socket.timeout.ms", "2000").create().unwrap();
        Cluster { brokers, probe }
    }

    /// The addresses of all nodes.
    pub(crate) fn bootstrap(&self) -> String {
        bootstrap(&self.brokers)
    }

    /// To be killed, stopped, frozen, thawed and restarted.
    pub(crate) fn node(&mut self, node: i32) -> &mut Broker {
        &mut self.brokers[node as usize - 1]
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = i32> + use<> {
        1..=NODES
    }

    /// Who leads a partition now.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let told = self.partition(topic, partition, MetadataPartition::leader)?;
        (told > 0).then_some(told)
    }

    /// Who has all that is acknowledged of a partition, as the brokers know now.
    pub(crate) fn in_sync(&self, topic: &str, partition: i32) -> Option<Vec<i32>> {
        self.partition(topic, partition, |partition| partition.isr().to_vec())
    }

    /// Where a partition is told of without an error.
    fn partition<T>(&self, topic: &str, partition: i32, take: impl Fn(&MetadataPartition) -> T) -> Option<T> {
        let metadata = self.probe.fetch_metadata(Some(topic), REQUEST).ok()?;
        let partitions = metadata.topics().first()?.partitions();
        let found = partitions.iter().find(|found| found.id() == partition)?;
        let is_led = found.error().is_none_or(|error| error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
        is_led.then(|| take(found))
    }

    /// Until every node has all records of every topic, those of the groups' offsets too: only then the next node may go
    /// without that anything stops.
    #[track_caller]
    pub(crate) fn until_in_sync(&self) {
        eventually(PATIENCE, "all replicas are in sync", || {
            let metadata = self.probe.fetch_metadata(None, REQUEST).ok()?;
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            let is_whole =
                |p: &MetadataPartition| p.error().is_none() && p.leader() > 0 && p.isr().len() == p.replicas().len();
            (metadata.brokers().len() == NODES as usize && partitions.all(is_whole)).then_some(())
        });
    }
}

fn bootstrap(brokers: &[Broker]) -> String {
    brokers.iter().map(Broker::bootstrap).collect::<Vec<_>>().join(",")
}
