//! The deltasync client.
