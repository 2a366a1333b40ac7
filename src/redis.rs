//! A connection to Redis: one for all clones, made anew where it breaks.

use std::time::Duration;

use ::redis::aio::{ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult};

use crate::error::{Error, Result};

/// So long may a command take, a new connection included.
const TIMEOUT: Duration = Duration::from_secs(1);

/// See the module's own words.
#[derive(Clone)]
pub(crate) struct Connection {
    manager: ConnectionManager,
    address: String,
}

impl Connection {
    /// Connects to `redis://[user:password@]host[:port][/database]`, or to `redis+unix:///path` of a socket.
    ///
    /// # Errors
    /// - [`Error::Setting`] of `redis`: the URL is none, or user and password are refused.
    /// - [`Error::Redis`]: no answer within a second.
    pub(crate) async fn open(url: &str) -> Result<Self> {
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
            Ok(Ok(manager)) => Ok(Self { manager, address }),
            Ok(Err(error)) if error.kind() == ErrorKind::AuthenticationFailed => {
                Err(Error::setting("redis", format!("Redis at {address} refuses user or password")))
            }
            Ok(Err(error)) => Err(Error::Redis { address, reason: error.to_string() }),
            Err(_) => Err(late(&address)),
        }
    }

    /// Where it goes, without user and password.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`Error::Redis`].
    #[cfg(feature = "app")]
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.twice(command).await
    }

    /// Runs several in one go. Those behind one that fails are run all the same: their answers, errors among them, where
    /// the commands are told to ignore these.
    ///
    /// # Errors
    /// [`Error::Redis`]: there is no connection, or it was lost.
    #[cfg(feature = "stream")]
    pub(crate) async fn run_all<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T> {
        self.twice(commands).await
    }

    async fn twice<T: FromRedisValue>(&self, query: &impl Query) -> Result<T> {
        let mut manager = self.manager.clone();
        let running = async {
            match query.query(&mut manager).await {
                // The connection was lost before, perhaps long ago: now there is a new one, or an error that is of now.
                Err(error) if is_lost(&error) => query.query(&mut manager).await,
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

/// A command, or several.
trait Query: Sync {
    fn query<T: FromRedisValue>(&self, manager: &mut ConnectionManager) -> impl Future<Output = RedisResult<T>> + Send;
}

impl Query for Cmd {
    async fn query<T: FromRedisValue>(&self, manager: &mut ConnectionManager) -> RedisResult<T> {
        self.query_async(manager).await
    }
}

impl Query for Pipeline {
    async fn query<T: FromRedisValue>(&self, manager: &mut ConnectionManager) -> RedisResult<T> {
        self.query_async(manager).await
    }
}

fn is_lost(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || (error.is_io_error() && !error.is_timeout())
}

fn late(address: &str) -> Error {
    Error::Redis { address: address.to_owned(), reason: format!("no answer within {TIMEOUT:?}") }
}
