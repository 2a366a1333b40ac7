//! The gateway that generators and listeners register with.
