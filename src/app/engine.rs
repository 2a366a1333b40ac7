//! Runs records through handlers.
