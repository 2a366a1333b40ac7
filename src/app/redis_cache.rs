//! Redis as a cache of responses.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, FromRedisValue, RedisError};

use crate::app::cache::ResponseCache;
use crate::error::{Error, HandlerError, Result};

/// So long may a command take, a new connection included.
const TIMEOUT: Duration = Duration::from_secs(1);

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
pub struct RedisCache {
    connection: ConnectionManager,
    address: String,
}

impl RedisCache {
    /// Connects to `redis://[user:password@]host[:port][/database]`, or to `redis+unix:///path` of a socket.
    ///
    /// # Errors
    /// - [`Error::Setting`] of `redis`: the URL is none, or user and password are refused.
    /// - [`Error::Redis`]: no answer within a second.
    pub async fn connect(url: &str) -> Result<Self> {
        // Its own words may hold the password.
        let bad = |_| Error::setting("redis", "is no URL such as redis://user:password@host:port/database");
        let client = Client::open(url).map_err(bad)?;
        let address = client.get_connection_info().addr().to_string();
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT));
        let connecting = ConnectionManager::new_with_config(client, config);
        match tokio::time::timeout(TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok(Self { connection, address }),
            Ok(Err(error)) if error.kind() == ErrorKind::AuthenticationFailed => {
                Err(Error::setting("redis", format!("Redis at {address} refuses user or password")))
            }
            Ok(Err(error)) => Err(Error::Redis { address, reason: error.to_string() }),
            Err(_) => Err(late(&address)),
        }
    }

    async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let mut connection = self.connection.clone();
        let running = async {
            let answer = command.query_async(&mut connection).await;
            match answer {
                // The connection was lost before, perhaps long ago: now there is a new one, or an error that is of now.
                Err(error) if is_lost(&error) => command.query_async(&mut connection).await,
                answer => answer,
            }
        };
        match tokio::time::timeout(TIMEOUT, running).await {
            Ok(answer) => {
                answer.map_err(|error| Error::Redis { address: self.address.clone(), reason: error.to_string() })
            }
            Err(_) => Err(late(&self.address)),
        }
    }
}

fn is_lost(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || (error.is_io_error() && !error.is_timeout())
}

fn late(address: &str) -> Error {
    Error::Redis { address: address.to_owned(), reason: format!("no answer within {TIMEOUT:?}") }
}

impl ResponseCache for RedisCache {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, HandlerError> {
        Ok(self.run(redis::cmd("GET").arg(key)).await?)
    }

    async fn set(&self, key: &str, value: &[u8], expiry: Duration) -> Result<(), HandlerError> {
        // Redis refuses 0.
        let seconds = expiry.as_secs().max(1);
        Ok(self.run(redis::cmd("SET").arg(key).arg(value).arg("EX").arg(seconds)).await?)
    }
}

/// Without user and password.
impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCache").field("address", &self.address).finish_non_exhaustive()
    }
}
