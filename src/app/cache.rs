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

/// A cache, whatever its type.
pub(super) trait AnyCache: Send + Sync + 'static {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Vec<u8>>>;

    fn set<'a>(&'a self, key: &'a str, value: &'a [u8], expiry: Duration) -> Pending<'a, ()>;
}

type Pending<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, HandlerError>> + Send + 'a>>;

impl<C: ResponseCache> AnyCache for C {
    fn get<'a>(&'a self, key: &'a str) -> Pending<'a, Option<Vec<u8>>> {
        Box::pin(ResponseCache::get(self, key))
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a [u8], expiry: Duration) -> Pending<'a, ()> {
        Box::pin(ResponseCache::set(self, key, value, expiry))
    }
}

/// A cache within the process.
#[derive(Clone, Debug, Default)]
pub struct MemoryCache;
