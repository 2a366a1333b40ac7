//! Redis as a cache of responses.

/// Redis as a cache of responses.
#[derive(Clone, Debug)]
pub struct RedisCache;
