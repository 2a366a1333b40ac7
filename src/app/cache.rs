//! Where responses are kept for replicas that wait for them.

use std::time::Duration;

use crate::error::HandlerError;

/// Where responses are kept for replicas that wait for them.
pub trait ResponseCache: Send + Sync + 'static {
    /// What is kept under this key.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Vec<u8>>, HandlerError>> + Send;

    /// Keeps a value under this key for so long.
    fn set(&self, key: &str, value: &[u8], expiry: Duration) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// A cache within the process.
#[derive(Clone, Debug, Default)]
pub struct MemoryCache;
