//! The control plane: domains, endpoints, and making changes true.

mod batch;
mod commit;
mod domain;
mod pending;
mod queries;
mod unit;

pub use batch::{Request, RequestError};
pub use commit::{Commit, Stats};
pub use domain::Domain;
pub use unit::{Calgary, DomainKind, Limits};
