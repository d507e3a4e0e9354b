//! A client of another project's that speaks 9P2000 and nothing else: the crate `ninep`.

use calgaryd::listen::ListenAddress;
use ninep::fs::{Mode, Perm};
use ninep::sync::client::Client;

use crate::rig::Rig;

#[test]
fn files_are_listed_read_written_created_and_removed_in_9p2000() {
    let rig = Rig::new();
    std::fs::create_dir(rig.folder().join("folder")).unwrap();
    for address in rig.addresses() {
        std::fs::write(rig.folder().join("folder/data"), "from the host\n").unwrap();
        let client = match &address {
            ListenAddress::Unix(path) => Client::new_unix_with_explicit_path("glenda", path, ""),
            ListenAddress::Tcp(address) => Client::new_tcp("glenda", address, ""),
        };
        let client = client.unwrap();
        assert_eq!(client.read_str("folder/data").unwrap(), "from the host\n");
        assert_eq!(client.stat("folder/data").unwrap().n_bytes, 14);
        let names: Vec<String> = client.read_dir("folder").unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["data"]);

        // The client keeps a fid for each path and would open or walk from one that is open, which 9P forbids.
        let close = |path: &str| client.clunk_path(path).unwrap();
        close("folder");
        close("folder/data");
        client.create("folder", "new", Perm::OWNER_READ | Perm::OWNER_WRITE, Mode::READ_WRITE).unwrap();
        close("folder/new");
        let large = vec![7; 200_000];
        assert_eq!(client.write("folder/new", 0, &large).unwrap(), large.len());
        close("folder/new");
        assert!(std::fs::read(rig.folder().join("folder/new")).unwrap() == large);
        assert!(client.read("folder/new").unwrap() == large);
        close("folder/new");
        client.remove("folder/new").unwrap();
        assert!(!rig.folder().join("folder/new").exists());
        assert!(client.stat("folder/new").is_err());
        assert!(client.stat("folder/../../secret").is_err());
    }
}
