//! FUSE over vhost-user: virtiofsd.

mod channel;
mod client;
mod wire;

pub(super) use client::FuseSubject;
