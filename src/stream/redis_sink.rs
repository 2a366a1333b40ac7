//! Redis as a sink.

use std::fmt;
use std::time::Duration;

use redis::{ToRedisArgs, Value, cmd, pipe};

use crate::error::{Error, Result};
use crate::redis::Connection;
use crate::stream::sinks::{Sink, Sinks};

/// Redis as a sink. It is connected anew where the connection breaks; a command that takes longer than a second is an
/// error.
pub struct RedisSink {
    id: String,
    connection: Connection,
}

impl RedisSink {
    /// Connects a sink of this id to `redis://[user:password@]host[:port][/database]`.
    ///
    /// # Errors
    /// - [`Error::Setting`] of `redis`: the URL is none, or user and password are refused.
    /// - [`Error::Redis`]: no answer within a second.
    pub async fn connect(id: impl Into<String>, url: &str) -> Result<Self> {
        Ok(Self { id: id.into(), connection: Connection::open(url).await? })
    }

    /// Runs commands in one go, each a list of its words, and gives their answers. Those behind one that fails are run
    /// all the same.
    ///
    /// # Errors
    /// [`Error::Redis`]: one of them failed, or there is no connection. [`Error::Setting`]: a command without a word.
    pub async fn batch_execute<A: ToRedisArgs>(&self, commands: &[Vec<A>]) -> Result<Vec<Value>> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let mut all = pipe();
        for words in commands {
            let Some(first) = words.first() else {
                return Err(Error::setting("redis", "a command has no word"));
            };
            let mut command = redis::Cmd::new();
            command.arg(first);
            for word in &words[1..] {
                command.arg(word);
            }
            all.add_command(command);
        }
        self.connection.run_all(&all).await
    }

    /// Sets fields of hashes that are not set yet: of each name a key and a value, `HSETNX`. Redis tells how many were
    /// new, which nobody asked the Python library for.
    ///
    /// # Errors
    /// As [`RedisSink::batch_execute`]; [`Error::Setting`]: the lists are not of one length.
    pub async fn put<N: ToRedisArgs, K: ToRedisArgs, V: ToRedisArgs>(
        &self,
        names: &[N],
        keys: &[K],
        values: &[V],
    ) -> Result<()> {
        if names.len() != keys.len() || names.len() != values.len() {
            let reason = format!("{} names, {} keys and {} values", names.len(), keys.len(), values.len());
            return Err(Error::setting("redis", reason));
        }
        if names.is_empty() {
            return Ok(());
        }
        let mut all = pipe();
        for ((name, key), value) in names.iter().zip(keys).zip(values) {
            let mut command = cmd("HSETNX");
            command.arg(name).arg(key).arg(value);
            all.add_command(command);
        }
        self.connection.run_all::<Vec<Value>>(&all).await.map(drop)
    }
}

impl Sink for RedisSink {
    fn id(&self) -> &str {
        &self.id
    }

    /// Every command was answered before.
    async fn close(&self, _: Duration) -> Result<()> {
        Ok(())
    }
}

/// Without user and password.
impl fmt::Debug for RedisSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSink").field("id", &self.id).field("address", &self.connection.address()).finish()
    }
}

/// The Redis sink of an id, if there is one.
#[derive(Debug)]
pub struct Redis<'a>(Result<&'a RedisSink>);

impl Sinks {
    /// The Redis sink with this id. Where there is none, its commands say so.
    #[must_use]
    pub fn redis(&self, id: &str) -> Redis<'_> {
        Redis(self.get(id))
    }
}

impl Redis<'_> {
    /// As [`RedisSink::put`].
    ///
    /// # Errors
    /// As there, and [`Error::Setting`] where there is no such sink.
    pub async fn put<N: ToRedisArgs, K: ToRedisArgs, V: ToRedisArgs>(
        self,
        names: &[N],
        keys: &[K],
        values: &[V],
    ) -> Result<()> {
        self.0?.put(names, keys, values).await
    }

    /// As [`RedisSink::batch_execute`].
    ///
    /// # Errors
    /// As there, and [`Error::Setting`] where there is no such sink.
    pub async fn batch_execute<A: ToRedisArgs>(self, commands: &[Vec<A>]) -> Result<Vec<Value>> {
        self.0?.batch_execute(commands).await
    }
}
