//! Where responses are kept for replicas that wait for them.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::HandlerError;
use crate::sync::lock;

/// Where responses are kept for replicas that wait for them: a response reaches one replica of an app, and the one that
/// asked may be another.
///
/// An app puts every response there that it reads, under the SHA-256 of the question's `event_id` in hexadecimal digits,
/// for 30 s. Whoever waits looks there at once, and again and again with pauses of up to 50 ms. What a function
/// answers an error to is that of the call that waits; a response that could not be kept is logged.
///
/// ```
/// use std::time::Duration;
///
/// use kafka_envelope::HandlerError;
/// use kafka_envelope::app::{MemoryCache, ResponseCache};
///
/// /// Writes down what it keeps.
/// struct Logging(MemoryCache);
///
/// impl ResponseCache for Logging {
///     async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, HandlerError> {
///         self.0.get(key).await
///     }
///
///     async fn set(&self, key: &str, value: &[u8], expiry: Duration) -> Result<(), HandlerError> {
///         println!("{key} for {expiry:?}");
///         self.0.set(key, value, expiry).await
///     }
/// }
/// ```
pub trait ResponseCache: Send + Sync + 'static {
    /// What is kept under this key.
    ///
    /// # Errors
    /// The cache cannot say.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Vec<u8>>, HandlerError>> + Send;

    /// Keeps a value under this key for so long, in place of what was there.
    ///
    /// After 5 s it is given up. Who waits in this process has the response before that.
    ///
    /// # Errors
    /// It is not kept, or it is not known whether it is.
    fn set(&self, key: &str, value: &[u8], expiry: Duration) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, HandlerError>> + Send + 'a>>;

/// A cache, whatever its type.
pub(super) trait AnyCache: Send + Sync + 'static {
    fn get<'a>(&'a self, key: &'a str) -> Boxed<'a, Option<Vec<u8>>>;

    fn set<'a>(&'a self, key: &'a str, value: &'a [u8], expiry: Duration) -> Boxed<'a, ()>;
}

impl<C: ResponseCache> AnyCache for C {
    fn get<'a>(&'a self, key: &'a str) -> Boxed<'a, Option<Vec<u8>>> {
        Box::pin(ResponseCache::get(self, key))
    }

    fn set<'a>(&'a self, key: &'a str, value: &'a [u8], expiry: Duration) -> Boxed<'a, ()> {
        Box::pin(ResponseCache::set(self, key, value, expiry))
    }
}

/// A cache within the process, for apps that run in it together, and for tests. Clones are one cache. What has expired
/// takes no room for long.
#[derive(Clone, Default)]
pub struct MemoryCache(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    values: HashMap<String, Value>,
    /// With more values than these, it is time to look for what has expired.
    enough: usize,
}

struct Value {
    bytes: Vec<u8>,
    /// None: never.
    expires: Option<Instant>,
}

impl Value {
    fn is_valid(&self, now: Instant) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }
}

/// With fewer values nobody looks for those that have expired.
const FEW: usize = 64;

impl Kept {
    fn get(&mut self, key: &str, now: Instant) -> Option<Vec<u8>> {
        let value = self.values.get(key)?;
        if value.is_valid(now) {
            return Some(value.bytes.clone());
        }
        self.values.remove(key);
        None
    }

    fn set(&mut self, key: &str, bytes: Vec<u8>, expires: Option<Instant>, now: Instant) {
        if self.values.len() >= self.enough.max(FEW) {
            self.values.retain(|_, value| value.is_valid(now));
            // So that a value is looked at twice on average, however many there are.
            self.enough = 2 * self.values.len();
        }
        self.values.insert(key.to_owned(), Value { bytes, expires });
    }
}

impl ResponseCache for MemoryCache {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, HandlerError> {
        Ok(lock(&self.0).get(key, Instant::now()))
    }

    async fn set(&self, key: &str, value: &[u8], expiry: Duration) -> Result<(), HandlerError> {
        let now = Instant::now();
        lock(&self.0).set(key, value.to_vec(), now.checked_add(expiry), now);
        Ok(())
    }
}

/// Without what it keeps.
impl fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCache").field("values", &lock(&self.0).values.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRY: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_value_is_there_until_it_expires() {
        let cache = MemoryCache::default();
        ResponseCache::set(&cache, "a", b"1", EXPIRY).await.unwrap();
        ResponseCache::set(&cache, "a", b"2", EXPIRY).await.unwrap();
        tokio::time::advance(EXPIRY - Duration::from_millis(1)).await;
        assert_eq!(ResponseCache::get(&cache.clone(), "a").await.unwrap().unwrap(), b"2");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(ResponseCache::get(&cache, "a").await.unwrap(), None);
        ResponseCache::set(&cache, "a", b"3", Duration::MAX).await.unwrap();
        tokio::time::advance(EXPIRY * 100).await;
        assert!(ResponseCache::get(&cache, "a").await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_takes_no_room_for_long() {
        let cache = MemoryCache::default();
        for second in 0..10_000 {
            ResponseCache::set(&cache, &second.to_string(), b"", EXPIRY).await.unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(lock(&cache.0).values.len() <= FEW, "{cache:?}");
    }
}
