//! The batch consumer.
#![allow(dead_code)]

mod ledger;
