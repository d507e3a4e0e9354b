//! The daemon behind the command `calgaryd`: virtio-iommu and virtio-9p, served to a VMM over a socket.
//!
//! ```text
//!   VMM ──vhost-user──> transport ──> device::iommu ──> iommu-calgary (tables)
//!       └─vfio-user──┘            └─> device::share ──> virtio-9p (files)
//!                                        └── ring, dma: every access through the endpoint's TCEs
//! ```
//!
//! Types to know: [`config::ServeConfig`] says what to serve, [`daemon::Daemon`] serves it,
//! [`transport::Device`] is the seam between device models and transports, [`dma::Dma`] is how a device reaches guest
//! memory, and [`ring::Ring`] is the device's half of a virtqueue.
//!
//! ```no_run
//! use calgaryd::config::{ServeConfig, parse_share};
//! use calgaryd::daemon::{Daemon, Signals};
//!
//! let share = parse_share("tag=home,path=/srv/home,socket=/run/home.sock")?;
//! let daemon = Daemon::start(&ServeConfig { shares: vec![share], ..ServeConfig::default() }, Signals::Leave)?;
//! daemon.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod attachment;
pub mod cli;
pub mod config;
pub mod daemon;
mod descriptors;
pub mod device;
pub mod dma;
pub mod listen;
pub mod memory;
mod prefetch;
pub mod ring;
pub mod sandbox;
mod service_manager;
pub mod state;
pub mod supervisor;
pub mod transport;
