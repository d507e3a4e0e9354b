//! Random requests, compared with a model that knows each page by itself.

use iommu_calgary::{
    Access, Calgary, DomainId, DomainKind, EndpointId, Iova, Limits, MapError, Permissions, RealAddr, TableSize,
    UnmapError,
};
use proptest::prelude::*;

use crate::rig::AT_ONCE;

const PAGE: u64 = 4096;
const DOMAIN: DomainId = DomainId(0);
const ENDPOINT: EndpointId = EndpointId(0);

#[derive(Clone, Debug)]
enum Request {
    Map {
        first: u64,
        last: u64,
        real: u64,
        permissions: Permissions,
    },
    Unmap {
        first: u64,
        last: u64,
    },
    /// The end of a batch.
    Commit,
}

/// Which mapping a page belongs to, where it leads, and what is allowed there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Page {
    mapping: usize,
    real: u64,
    permissions: Permissions,
}

struct Model {
    pages: Vec<Option<Page>>,
    next: usize,
}

impl Model {
    fn map(&mut self, first: u64, last: u64, real: u64, permissions: Permissions) -> Result<(), MapError> {
        if last < first {
            return Err(MapError::Inverted);
        }
        if !(first.is_multiple_of(PAGE) && last % PAGE == PAGE - 1 && real.is_multiple_of(PAGE)) {
            return Err(MapError::Unaligned);
        }
        if last / PAGE >= self.pages.len() as u64 {
            return Err(MapError::OutsideWindow);
        }
        let range = index(first)..=index(last);
        if self.pages[range.clone()].iter().any(Option::is_some) {
            return Err(MapError::Overlap);
        }
        for page in range {
            let real = real + (page as u64 * PAGE - first);
            self.pages[page] = Some(Page { mapping: self.next, real, permissions });
        }
        self.next += 1;
        Ok(())
    }

    fn unmap(&mut self, first: u64, last: u64) -> Result<u64, UnmapError> {
        if last < first {
            return Err(UnmapError::Inverted);
        }
        let mut removed = Vec::new();
        for (number, page) in self.pages.iter().enumerate() {
            let start = number as u64 * PAGE;
            let touched = start <= last && first < start + PAGE;
            if let Some(page) = page
                && touched
            {
                removed.push(page.mapping);
            }
        }
        removed.dedup();
        for (number, page) in self.pages.iter().enumerate() {
            let start = number as u64 * PAGE;
            let inside = first <= start && start + PAGE - 1 <= last;
            if page.is_some_and(|page| removed.contains(&page.mapping)) && !inside {
                return Err(UnmapError::Split);
            }
        }
        for page in &mut self.pages {
            page.take_if(|page| removed.contains(&page.mapping));
        }
        Ok(removed.len() as u64)
    }
}

fn index(address: u64) -> usize {
    usize::try_from(address / PAGE).unwrap()
}

/// Addresses that crowd into a few words of the bitmaps, most of them on page boundaries.
fn address(window: u64) -> impl Strategy<Value = u64> {
    let page = prop_oneof![
        8 => 0..200_u64,
        2 => (window / PAGE - 70)..(window / PAGE + 3),
        1 => 0..window / PAGE,
    ];
    let offset = prop_oneof![8 => Just(0), 1 => 1..PAGE];
    (page, offset).prop_map(|(page, offset)| page * PAGE + offset)
}

fn permissions() -> impl Strategy<Value = Permissions> {
    (any::<bool>(), any::<bool>()).prop_map(|(read, write)| Permissions::new(read, write))
}

fn request(window: u64) -> impl Strategy<Value = Request> {
    let pages = prop_oneof![6 => 0..4_u64, 3 => 0..140_u64];
    let map = (address(window), pages, 0..1_u64 << 30, permissions()).prop_map(|(first, pages, real, permissions)| {
        let last = (first + pages * PAGE).wrapping_sub(1);
        Request::Map { first, last, real: real / 16 * PAGE, permissions }
    });
    let last = prop_oneof![
        8 => address(window).prop_map(|last| last.wrapping_sub(1)),
        1 => Just(u64::MAX),
    ];
    let unmap = (address(window), last).prop_map(|(first, last)| Request::Unmap { first, last });
    let small =
        (address(window), 1..4_u64).prop_map(|(first, pages)| Request::Unmap { first, last: first + pages * PAGE - 1 });
    prop_oneof![5 => map, 1 => unmap, 4 => small, 2 => Just(Request::Commit)]
}

fn compare(size: TableSize, requests: Vec<Request>) -> Result<(), TestCaseError> {
    let mut iommu = Calgary::new(size, Limits::default()).unwrap();
    let phb = iommu.add_endpoint(ENDPOINT).unwrap();
    iommu.attach(DOMAIN, ENDPOINT, DomainKind::Translated).unwrap();
    let mut model = Model { pages: vec![None; size.entries()], next: 0 };
    let mut live = 0;
    for request in requests {
        match request {
            Request::Map { first, last, real, permissions } => {
                let result = iommu.map(DOMAIN, Iova(first), Iova(last), RealAddr(real), permissions);
                prop_assert_eq!(result, model.map(first, last, real, permissions));
                live += u64::from(result.is_ok());
            }
            Request::Unmap { first, last } => {
                let result = iommu.unmap(DOMAIN, Iova(first), Iova(last));
                prop_assert_eq!(result, model.unmap(first, last));
                live -= result.unwrap_or(0);
            }
            Request::Commit => prop_assert_eq!(iommu.commit(AT_ONCE).broken, []),
        }
        prop_assert_eq!(iommu.live_mappings_of(DOMAIN), live);
    }
    prop_assert_eq!(iommu.commit(AT_ONCE).broken, []);

    let mut port = phb.new_port();
    let epoch = port.enter();
    for (number, page) in model.pages.iter().enumerate() {
        for access in [Access::Read, Access::Write] {
            let expected = page.filter(|page| page.permissions.allows(access)).map(|page| page.real);
            let reached = epoch.translate(Iova(number as u64 * PAGE), PAGE, access).ok();
            prop_assert_eq!(reached.map(|run| run.real.0), expected, "page {}", number);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_smallest_table_behaves_like_a_set_of_mappings(
        requests in prop::collection::vec(request(TableSize::MiB32.window_bytes()), 1..120),
    ) {
        compare(TableSize::MiB32, requests)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_of_any_size_behaves_like_a_set_of_mappings(
        (size, requests) in (0..TableSize::ALL.len()).prop_flat_map(|code| {
            let size = TableSize::ALL[code];
            (Just(size), prop::collection::vec(request(size.window_bytes()), 1..120))
        }),
    ) {
        compare(size, requests)?;
    }
}
