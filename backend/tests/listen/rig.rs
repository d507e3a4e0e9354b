//! A folder served on both kinds of address.

use std::path::PathBuf;
use std::sync::Arc;

use calgaryd::listen::{Clients, ListenAddress, ListenLimits, ListenPort, Listener, Listening};
use tempfile::TempDir;
use virtio_9p::{Options, Passthrough, PassthroughOptions, Server};

pub(crate) struct Rig {
    listening: Option<Listening>,
    root: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(ListenLimits::default())
    }

    pub(crate) fn with(limits: ListenLimits) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let files = Arc::new(Passthrough::new(&folder, PassthroughOptions::default()).unwrap());
        let socket = ListenAddress::Unix(root.path().join("socket"));
        let addresses = [socket, "tcp:127.0.0.1:0".parse().unwrap()];
        let ports = addresses.map(|address| {
            let files = files.clone();
            ListenPort::new("share test".to_owned(), Listener::bind(&address).unwrap(), move || {
                Arc::new(Server::new(files.for_another_session(), Options::default()))
            })
        });
        let listening = Some(Listening::start(ports.into(), Arc::new(Clients::new(limits))).unwrap());
        Self { listening, root }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.root.path().join("folder")
    }

    /// The Unix address, then the TCP one.
    pub(crate) fn addresses(&self) -> Vec<ListenAddress> {
        self.listening().addresses().iter().map(|(_, address)| address.clone()).collect()
    }

    pub(crate) fn unix(&self) -> ListenAddress {
        self.addresses().remove(0)
    }

    pub(crate) fn clients(&self) -> &Clients {
        self.listening().clients()
    }

    fn listening(&self) -> &Listening {
        self.listening.as_ref().unwrap()
    }

    /// Ends the service.
    pub(crate) fn stop(&mut self) {
        self.listening = None;
    }
}

/// Waits until `count` clients are connected: a thread notices the end of its client a moment later.
pub(crate) fn wait_for_connections(clients: &Clients, count: u64) {
    let deadline = std::time::Instant::now() + crate::client::PATIENCE;
    while clients.stats().connections != count {
        assert!(std::time::Instant::now() < deadline, "{:?}", clients.stats());
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
