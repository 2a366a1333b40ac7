//! A producer and a listener without an app.
