//! The user-space guest's own client: a virtio-9p device on any transport.

use std::sync::Arc;
use std::time::Duration;

use calgary_tests::guest::ninep::{Reply, Tag};
use calgary_tests::guest::{ClientOptions, Iommu, NinepClient, PageBuffer, Waiting};

use super::super::subject::{ROOM, SLOTS};
use super::channel::Channel;
use super::message::Op;
use crate::failure::Failure;
use crate::peers::Server;

/// How the client drives all devices: as Linux does, but polling, so that its own wake-ups are in no figure.
pub(crate) const CLIENT: ClientOptions = ClientOptions {
    queue_size: 128,
    depth: 32,
    waiting: Waiting::Poll,
    ring_features: calgary_tests::guest::transport::F_INDIRECT_DESC | calgary_tests::guest::transport::F_EVENT_IDX,
    translated: false,
};

/// A virtio-9p device.
#[derive(Debug)]
pub(crate) struct VirtioChannel {
    // Before the server: it stops the device when dropped.
    client: NinepClient,
    /// What translates for it, which an end of the driver would detach.
    _iommu: Option<Arc<Iommu>>,
    name: &'static str,
    buffers: Vec<PageBuffer>,
    tags: Vec<Option<Tag>>,
    /// Reused: the tags of requests that were submitted together.
    new: Vec<Tag>,
    server: Server,
}

impl VirtioChannel {
    /// Drives a device of `server`, behind `iommu` if there is one, by its `client`, with buffers in scattered pages, or in `contiguous` ones.
    pub(crate) fn new(
        name: &'static str,
        server: Server,
        client: NinepClient,
        iommu: Option<Arc<Iommu>>,
        contiguous: bool,
    ) -> Result<Self, Failure> {
        let memory = Arc::clone(client.memory());
        let buffer =
            |_| if contiguous { PageBuffer::contiguous(&memory, ROOM) } else { PageBuffer::new(&memory, ROOM, 0) };
        let buffers = (0..SLOTS).map(buffer);
        Ok(Self {
            client,
            _iommu: iommu,
            name,
            buffers: buffers.collect::<Result<_, _>>()?,
            tags: vec![None; SLOTS],
            new: Vec::new(),
            server,
        })
    }

    fn tag(&self, slot: usize) -> Result<Tag, Failure> {
        self.tags[slot].ok_or_else(|| Failure::wrong(self.name, format!("no request is out in slot {slot}")))
    }
}

impl Channel for VirtioChannel {
    fn name(&self) -> &'static str {
        self.name
    }

    fn submit(&mut self, slot: usize, op: &Op<'_>) -> Result<(), Failure> {
        self.tags[slot] = Some(self.client.submit(op.call(&self.buffers[slot]))?);
        Ok(())
    }

    fn submit_all(&mut self, requests: &[(usize, Op<'_>)]) -> Result<(), Failure> {
        let Self { client, buffers, tags, new, .. } = self;
        new.clear();
        client.submit_all(requests.iter().map(|(slot, op)| op.call(&buffers[*slot])), new)?;
        requests.iter().zip(new).for_each(|((slot, _), tag)| tags[*slot] = Some(*tag));
        Ok(())
    }

    fn kick(&mut self) -> Result<(), Failure> {
        Ok(self.client.kick()?)
    }

    fn is_done(&mut self, slot: usize) -> Result<bool, Failure> {
        let tag = self.tag(slot)?;
        Ok(self.client.is_done(tag)?)
    }

    fn collect(&mut self, slot: usize) -> Result<Reply, Failure> {
        let tag = self.tag(slot)?;
        self.tags[slot] = None;
        let name = self.name;
        self.client.collect(tag).map_err(|cause| Failure::wrong(name, cause.to_string()))
    }

    fn fill(&mut self, slot: usize, at: usize, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.buffers[slot].write(at, bytes)?)
    }

    fn read(&self, slot: usize, at: usize, bytes: &mut [u8]) -> Result<(), Failure> {
        Ok(self.buffers[slot].read(at, bytes)?)
    }

    fn cpu(&self) -> Result<Duration, Failure> {
        self.server.cpu()
    }
}
