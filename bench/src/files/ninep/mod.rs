//! 9P2000.L: one client for all servers, over channels that differ.

mod channel;
mod client;
mod in_process;
mod message;
mod operation;
mod stream;
mod virtio;

pub(super) use channel::Channel;
pub(super) use client::NinepSubject;
pub(super) use in_process::{CoreChannel, P9Channel};
pub(super) use stream::StreamChannel;
pub(super) use virtio::{CLIENT, VirtioChannel};
