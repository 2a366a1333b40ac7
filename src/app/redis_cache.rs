//! Redis as a cache of responses.

use std::fmt;
use std::time::Duration;

use redis::cmd;

use crate::app::cache::ResponseCache;
use crate::error::{HandlerError, Result};
use crate::redis::Connection;

/// Redis as a cache of responses. Clones share one connection, which is made anew where it breaks.
///
/// A command that takes longer than a second is an error; with a Redis that is down it is one at once.
///
/// ```no_run
/// # async fn connect() -> Result<(), kafka_envelope::Error> {
/// let cache = kafka_envelope::app::RedisCache::connect("redis://127.0.0.1/").await?;
/// # let _ = cache;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisCache(Connection);

impl RedisCache {
    /// Connects to `redis://[user:password@]host[:port][/database]`, or to `redis+unix:///path` of a socket.
    ///
    /// # Errors
    /// - [`Error::Setting`](crate::Error::Setting) of `redis`: the URL is none, or user and password are refused.
    /// - [`Error::Redis`](crate::Error::Redis): no answer within a second.
    pub async fn connect(url: &str) -> Result<Self> {
        Connection::open(url).await.map(Self)
    }
}

impl ResponseCache for RedisCache {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, HandlerError> {
        Ok(self.0.run(cmd("GET").arg(key)).await?)
    }

    async fn set(&self, key: &str, value: &[u8], expiry: Duration) -> Result<(), HandlerError> {
        // Redis refuses 0.
        let seconds = expiry.as_secs().max(1);
        Ok(self.0.run(cmd("SET").arg(key).arg(value).arg("EX").arg(seconds)).await?)
    }
}

/// Without user and password.
impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCache").field("address", &self.0.address()).finish_non_exhaustive()
    }
}
