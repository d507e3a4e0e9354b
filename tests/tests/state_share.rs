//! The daemon's own state as a guest reads it, through the very IOMMU that it shows.

use calgary_tests::guest::iommu::{MAP_F_READ, MAP_F_WRITE};
use calgary_tests::guest::{GuestOptions, GuestPhys, Mapping, ROOT_FID, Session, ShareOptions};
use calgaryd::config::{IommuConfig, ServeConfig, ShareConfig, parse_share};
use calgaryd::daemon::{Daemon, Signals};
use calgaryd::transport::TransportKind;
use iommu_calgary::TableSize;
use tempfile::TempDir;

/// Guest RAM and IOVA window in MiB.
const WINDOW_MIB: u64 = 64;
/// Where the test maps: far from what the drivers keep mapped.
const AREA: u64 = 16 << 20;
const FID: u32 = 50;

struct Rig {
    _daemon: Daemon,
    guest: Session,
    _root: TempDir,
}

impl Rig {
    /// A guest with the state behind the IOMMU at 00:06.0, and a folder at 00:07.0.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let state = format!("tag=calgary,state,socket={},endpoint=00:06.0", at("state").display());
        let folder = ShareConfig::new("home".parse().unwrap(), root.path(), at("home"));
        let shares = vec![parse_share(&state).unwrap(), folder.at("00:07.0".parse().unwrap(), true)];
        let iommu = IommuConfig {
            socket: at("iommu"),
            transport: TransportKind::VhostUser,
            at: "00:05.0".parse().unwrap(),
            window: TableSize::MiB64,
            boot_bypass: false,
            reserved: Vec::new(),
        };
        let config = ServeConfig { iommu: Some(iommu), shares, ..ServeConfig::default() };
        let daemon = Daemon::start(&config, Signals::Leave).unwrap();
        let share = |share: &ShareConfig| ShareOptions {
            socket: share.socket.clone().unwrap(),
            endpoint: share.endpoint.unwrap().endpoint_id(),
            translated: share.iommu,
        };
        let options = GuestOptions {
            memory_mib: WINDOW_MIB,
            iommu_socket: Some(at("iommu")),
            shares: config.shares.iter().map(share).collect(),
            mapping: Mapping::Kept,
            ..GuestOptions::default()
        };
        Self { _daemon: daemon, guest: Session::boot(options).unwrap(), _root: root }
    }

    fn domain(&self) -> u32 {
        self.guest.shares[0].domain.unwrap()
    }

    /// The names in a folder.
    fn list(&mut self, path: &str) -> Vec<String> {
        let client = &mut self.guest.shares[0].client;
        open(client, path);
        let entries = client.readdir_all(FID).unwrap();
        client.clunk(FID).unwrap();
        let names = entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap());
        names.filter(|name| name != "." && name != "..").collect()
    }

    /// The whole content of a file.
    fn read(&mut self, path: &str) -> String {
        let client = &mut self.guest.shares[0].client;
        open(client, path);
        let mut content = Vec::new();
        loop {
            let piece = client.read(FID, content.len() as u64, 4096).unwrap();
            if piece.is_empty() {
                break;
            }
            content.extend(piece);
        }
        client.clunk(FID).unwrap();
        String::from_utf8(content).unwrap()
    }

    /// The lines of `mappings` in the test's area.
    fn mappings(&mut self) -> Vec<String> {
        let path = format!("iommu/domains/{}/mappings", self.domain());
        let text = self.read(&path);
        let address = |line: &&str| u64::from_str_radix(&line[2..10], 16).unwrap();
        text.lines().filter(|line| (AREA..AREA + (16 << 20)).contains(&address(line))).map(str::to_owned).collect()
    }
}

fn open(client: &mut calgary_tests::guest::NinepClient, path: &str) {
    let names: Vec<&[u8]> = path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
    assert_eq!(client.walk(ROOT_FID, FID, &names).unwrap().len(), names.len(), "{path}");
    client.lopen(FID, 0).unwrap();
}

#[test]
fn mappings_are_shown_as_the_guest_made_them_and_vanish_with_them() {
    let mut rig = Rig::new();
    let (iommu, domain) = (rig.guest.iommu.clone().unwrap(), rig.domain());
    assert_eq!(rig.mappings(), [""; 0]);
    let page = |number: u64| AREA + number * 4096;
    iommu.map(domain, page(0), page(3) - 1, GuestPhys(0x10_0000), MAP_F_READ).unwrap();
    // Adjacent in both spaces: a table cannot tell where this one begins.
    iommu.map(domain, page(3), page(4) - 1, GuestPhys(0x10_3000), MAP_F_READ).unwrap();
    // Longer than what is copied at a time.
    iommu.map(domain, page(100), page(2100) - 1, GuestPhys(0x20_0000), MAP_F_READ | MAP_F_WRITE).unwrap();
    assert_eq!(
        rig.mappings(),
        [
            "0x01000000..=0x01002fff  ->  0x000000100000  R-  3",
            "0x01003000..=0x01003fff  ->  0x000000103000  R-  1",
            "0x01064000..=0x01833fff  ->  0x000000200000  RW  2000",
        ]
    );
    let table = rig.read(&format!("iommu/domains/{domain}/table"));
    assert!(table.contains("0x01000000..=0x01003fff  ->  0x000000100000  R-        4"), "{table}");
    let stats = rig.read(&format!("iommu/domains/{domain}/stats"));
    assert!(stats.starts_with("kind translated\nendpoints 00:06.0\n"), "{stats}");
    iommu.unmap(domain, page(0), page(4) - 1).unwrap();
    assert_eq!(rig.mappings(), ["0x01064000..=0x01833fff  ->  0x000000200000  RW  2000"]);
}

#[test]
fn domains_come_and_go() {
    let mut rig = Rig::new();
    let iommu = rig.guest.iommu.clone().unwrap();
    let [own, other] = [0, 1].map(|share| rig.guest.shares[share].domain.unwrap());
    assert_eq!(rig.list("iommu/domains"), [own.to_string(), other.to_string()]);
    assert_eq!(rig.list("iommu/endpoints"), ["00:06.0", "00:07.0"]);
    assert_eq!(rig.read("iommu/endpoints/00:07.0"), format!("domain {other}\nbroken no\n"));
    let client = &mut rig.guest.shares[0].client;
    let name = other.to_string();
    client.walk(ROOT_FID, 60, &[b"iommu", b"domains", name.as_bytes(), b"mappings"]).unwrap();
    for none in ["01", "+1", "x", "4294967296", "77"] {
        let found = client.walk(ROOT_FID, FID, &[b"iommu", b"domains", none.as_bytes()]).unwrap();
        assert_eq!(found.len(), 2, "{none}");
    }
    iommu.detach(other, rig.guest.shares[1].endpoint).unwrap();
    assert_eq!(rig.list("iommu/domains"), [own.to_string()]);
    assert_eq!(rig.read("iommu/endpoints/00:07.0"), "domain none\nbroken no\n");
    // A file that was reached before reads as empty.
    let client = &mut rig.guest.shares[0].client;
    client.lopen(60, 0).unwrap();
    assert_eq!(client.read(60, 0, 4096).unwrap(), b"");
}

#[test]
fn the_rest_of_the_tree_is_there() {
    let mut rig = Rig::new();
    assert_eq!(rig.list(""), ["config", "iommu", "shares", "version"]);
    assert_eq!(rig.list("iommu"), ["domains", "endpoints", "faults", "stats"]);
    assert_eq!(rig.list("shares"), ["calgary", "home"]);
    assert!(rig.read("version").starts_with("calgaryd "));
    let config = rig.read("config");
    assert!(config.contains("share tag=calgary state=on") && config.contains("window=64M "), "{config}");
    let stats = rig.read("iommu/stats");
    let maps = stats.lines().find_map(|line| line.strip_prefix("maps ")).unwrap();
    assert!(maps.parse::<u64>().unwrap() > 0, "{stats}");
    assert!(rig.read("iommu/faults").contains("not-mapped 0\n"));
    rig.guest.shares[1].client.walk(ROOT_FID, 9, &[]).unwrap();
    assert_eq!(rig.read("shares/home/fids"), format!("device {ROOT_FID} walked\ndevice 9 walked\n"));
    let stats = rig.read("shares/home/stats");
    assert!(stats.contains("device fids 2\n") && stats.contains("device request-walk 1\n"), "{stats}");
    assert!(rig.guest.shares[0].client.mkdir(ROOT_FID, b"x", 0o755, 0).is_err(), "the state is read-only");
}
