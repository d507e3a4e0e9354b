//! Several requests at once.

use std::time::Duration;

use thiserror::Error;

use super::{Calgary, Commit, DomainKind};
use crate::addr::{DomainId, EndpointId, Iova, RealAddr};
use crate::chip::Chip;
use crate::error::{AttachError, DetachError, MapError, UnmapError};
use crate::permissions::Permissions;

/// A request of a virtio-iommu driver (virtio 1.2 §5.13.6), without its wire format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// See [`Calgary::attach`].
    Attach {
        /// The domain to attach to.
        domain: DomainId,
        /// Who is attached.
        endpoint: EndpointId,
        /// What the domain is, or has to be if it exists.
        kind: DomainKind,
    },
    /// See [`Calgary::detach`].
    Detach {
        /// The domain to detach from.
        domain: DomainId,
        /// Who is detached.
        endpoint: EndpointId,
    },
    /// See [`Calgary::map`].
    Map {
        /// Where.
        domain: DomainId,
        /// First address.
        first: Iova,
        /// Last address.
        last: Iova,
        /// Where the first address leads.
        real: RealAddr,
        /// What is allowed.
        permissions: Permissions,
    },
    /// See [`Calgary::unmap`].
    Unmap {
        /// Where.
        domain: DomainId,
        /// First address.
        first: Iova,
        /// Last address.
        last: Iova,
    },
}

/// Why a request of a batch failed. But for [`RequestError::Broken`], it changed nothing.
#[derive(Debug, Error)]
pub enum RequestError {
    /// See [`AttachError`].
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// See [`DetachError`].
    #[error(transparent)]
    Detach(#[from] DetachError),
    /// See [`MapError`].
    #[error(transparent)]
    Map(#[from] MapError),
    /// See [`UnmapError`].
    #[error(transparent)]
    Unmap(#[from] UnmapError),
    /// The translation is removed, but an endpoint that used it did not come to quiet: it is cut off, and may still be
    /// at what it had begun.
    #[error("endpoint {0} did not stop using what was removed; its slots are disabled until the next reset")]
    Broken(EndpointId),
}

impl<C: Chip> Calgary<C> {
    /// Applies requests in order, makes them true for all DMA with one [`Calgary::commit`], and gives each its result.
    ///
    /// Nothing may be acknowledged before this returns. Linux's driver for the chip never invalidates on unmap, only when
    /// its allocator wraps around, so a device may go on using a page for as long as the chip keeps its entry; and an
    /// entry that was freed after the last wrap can be handed out again with no invalidation in between. Here the batch
    /// is the quarantine: what was freed can be mapped again, by the same batch or a later one, but no request is
    /// acknowledged before the entries it removed are out of every cache. Where that fails, the endpoint is cut off until a
    /// reset has dropped its cache, and the requests that removed something from its reach fail.
    pub fn apply(
        &mut self,
        requests: &[Request],
        limit: Duration,
        results: &mut Vec<Result<(), RequestError>>,
    ) -> Commit {
        let first = results.len();
        let mut users = Vec::with_capacity(requests.len());
        for &request in requests {
            users.push(self.users(&request));
            results.push(self.request(request));
        }
        let commit = self.commit(limit);
        if self.any_broken() {
            for (users, result) in users.into_iter().zip(&mut results[first..]) {
                if result.is_ok()
                    && let Some(endpoint) = users.into_iter().find(|user| self.is_broken(*user))
                {
                    *result = Err(RequestError::Broken(endpoint));
                }
            }
        }
        commit
    }

    /// Whether an endpoint was cut off since the last reset.
    #[must_use]
    pub fn any_broken(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.broken)
    }

    /// A broken endpoint that may go on using what `request` would take away now: accesses that it had begun may be under
    /// way. Such a request is not to be acknowledged. [`Calgary::apply`] sees to that by itself.
    #[must_use]
    pub fn broken_user(&self, request: &Request) -> Option<EndpointId> {
        self.users(request).into_iter().find(|user| self.is_broken(*user))
    }

    fn request(&mut self, request: Request) -> Result<(), RequestError> {
        match request {
            Request::Attach { domain, endpoint, kind } => self.attach(domain, endpoint, kind)?,
            Request::Detach { domain, endpoint } => self.detach(domain, endpoint)?,
            Request::Map { domain, first, last, real, permissions } => {
                self.map(domain, first, last, real, permissions)?;
            }
            Request::Unmap { domain, first, last } => {
                self.unmap(domain, first, last)?;
            }
        }
        Ok(())
    }

    /// The endpoints that may use what a request is about to take away.
    fn users(&self, request: &Request) -> Vec<EndpointId> {
        match *request {
            Request::Map { .. } => Vec::new(),
            Request::Attach { endpoint, domain, .. } if self.endpoint_domain(endpoint) == Some(domain) => Vec::new(),
            Request::Attach { endpoint, .. } | Request::Detach { endpoint, .. } => vec![endpoint],
            Request::Unmap { domain, .. } => {
                let members = self.endpoints.iter().filter(|member| member.domain == Some(domain));
                members.map(|member| member.id).collect()
            }
        }
    }
}
