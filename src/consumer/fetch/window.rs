//! Partitions of which too much was taken beyond a record that is not completed.

use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::consumer::fetch::Fetch;

impl Fetch {
    /// Pauses partitions whose window is full, and resumes those where half of it is left. A pause throws away what
    /// librdkafka has fetched ahead, so the window is to be large; it goes on exactly at the position, so there is no
    /// pause while that is wrong.
    pub(super) fn hold_back(&mut self) {
        let max_window = self.options.max_window;
        let (mut full, mut free) = (TopicPartitionList::new(), TopicPartitionList::new());
        {
            let state = self.link.lock();
            for lane in self.lanes.iter_mut() {
                let window = state.ledger.window(lane.id);
                if !lane.is_paused && window > max_window && lane.seek.is_none() && !lane.is_away {
                    lane.is_paused = true;
                    full.add_partition(&lane.topic, lane.partition);
                } else if lane.is_paused && window <= max_window / 2 {
                    lane.is_paused = false;
                    free.add_partition(&lane.topic, lane.partition);
                }
            }
        }
        if full.count() > 0 {
            log::debug!("paused, with more than {max_window} offsets taken beyond their watermark: {full:?}");
            if let Err(error) = self.reader.consumer().pause(&full) {
                log::warn!("{full:?} could not be paused: {error}");
            }
        }
        self.resume(&free);
        #[cfg(feature = "stream")]
        self.tell_of_pauses();
    }

    /// What is kept back of paused partitions would never be done by itself.
    #[cfg(feature = "stream")]
    fn tell_of_pauses(&self) {
        let is_held = self.lanes.iter().any(|lane| lane.is_paused);
        let mut state = self.link.lock();
        let is_new = is_held && !state.is_held;
        state.is_held = is_held;
        if is_new {
            state.is_held_told = false;
            drop(state);
            self.link.wake_caller();
        }
    }

    /// No harm where they are not paused.
    pub(super) fn resume(&self, partitions: &TopicPartitionList) {
        if partitions.count() == 0 {
            return;
        }
        log::debug!("resumed: {partitions:?}");
        if let Err(error) = self.reader.consumer().resume(partitions) {
            log::warn!("{partitions:?} could not be resumed: {error}");
        }
    }
}
