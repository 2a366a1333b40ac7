//! The consumer's ledger, which is not public, and what it is asked for each batch.

use std::ops::Range;

// It stands on the standard library alone, so it can be built here as it is.
#[allow(dead_code, unused_imports, clippy::all)]
#[path = "../../src/consumer/ledger.rs"]
mod source;

use source::{Epoch, Ledger, PartitionId};

/// Records of a batch, over all partitions.
pub(crate) const BATCH: u64 = 500;

/// One consumer's ledger, whose partitions have come so far.
pub(crate) struct Book {
    ledger: Ledger,
    partitions: Vec<(PartitionId, Epoch)>,
    next: i64,
}

impl Book {
    pub(crate) fn new(partitions: i32) -> Book {
        let mut ledger = Ledger::default();
        let owned = |partition| {
            let id = ledger.id("orders", partition);
            ledger.assigned(id);
            Some((id, ledger.epoch(id)?))
        };
        let partitions = (0..partitions).filter_map(owned).collect();
        Book { ledger, partitions, next: 0 }
    }

    /// A batch is delivered, handled and committed. How many offsets the commit has.
    pub(crate) fn batch(&mut self) -> usize {
        let each = self.deliver();
        for (id, epoch) in self.partitions.clone() {
            self.ledger.completed(id, epoch, each.clone());
        }
        self.commit()
    }

    /// The same with records that are done one by one, each second of them later.
    pub(crate) fn scattered(&mut self) -> usize {
        let each = self.deliver();
        for (id, epoch) in self.partitions.clone() {
            for offset in each.clone().skip(1).step_by(2).chain(each.clone().step_by(2)) {
                self.ledger.completed(id, epoch, offset..offset + 1);
            }
        }
        self.commit()
    }

    fn deliver(&mut self) -> Range<i64> {
        let each = self.next..self.next + (BATCH / self.partitions.len() as u64) as i64;
        for offset in each.clone() {
            for (id, _) in &self.partitions {
                self.ledger.delivered(*id, offset, Some(7));
            }
        }
        self.next = each.end;
        each
    }

    fn commit(&mut self) -> usize {
        let Some(commit) = self.ledger.take_commit() else { return 0 };
        self.ledger.answered(commit.sequence, |_| true);
        commit.offsets.len()
    }
}
