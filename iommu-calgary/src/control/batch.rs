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
        let homes: Vec<_> = requests.iter().map(|request| self.home_before(request)).collect();
        results.extend(requests.iter().map(|&request| self.request(request)));
        let commit = self.commit(limit);
        if self.any_broken() {
            for ((request, home), result) in requests.iter().zip(homes).zip(&mut results[first..]) {
                if result.is_ok()
                    && let Some(endpoint) = self.still_using(request, home)
                {
                    *result = Err(RequestError::Broken(endpoint));
                }
            }
        }
        commit
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

    /// Where the endpoint of a request that moves one is before it.
    fn home_before(&self, request: &Request) -> Option<DomainId> {
        match *request {
            Request::Attach { endpoint, .. } | Request::Detach { endpoint, .. } => self.endpoint_domain(endpoint),
            _ => None,
        }
    }

    fn any_broken(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.broken)
    }

    /// A broken endpoint that may still use what a request took away, whichever batch broke it: accesses that it had
    /// begun then may be under way today.
    fn still_using(&self, request: &Request, home: Option<DomainId>) -> Option<EndpointId> {
        let broken = |endpoint: &EndpointId| self.is_broken(*endpoint);
        match *request {
            Request::Map { .. } => None,
            Request::Attach { endpoint, domain, .. } => Some(endpoint).filter(|_| home != Some(domain)).filter(broken),
            Request::Detach { endpoint, .. } => Some(endpoint).filter(broken),
            Request::Unmap { domain, .. } => {
                let members = self.endpoints.iter().filter(|member| member.domain == Some(domain));
                members.map(|member| member.id).find(broken)
            }
        }
    }
}
