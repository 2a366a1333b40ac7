//! Integration tests.

mod envelope;
mod fuzz_bodies;
