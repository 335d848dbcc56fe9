//! Which backend is used.

use osm_agent::iptables::{Backend, Choice, Found, choose};
use rstest::rstest;

const NONE: Found = Found {
    ours: false,
    others: false,
};
const OURS: Found = Found {
    ours: true,
    others: false,
};
const OTHERS: Found = Found {
    ours: false,
    others: true,
};
const BOTH: Found = Found {
    ours: true,
    others: true,
};

const NFT: Choice = Choice::Use(Backend::Nft);
const LEGACY: Choice = Choice::Use(Backend::Legacy);

#[rstest]
#[case::unused(Some(NONE), Some(NONE), Choice::NftIfItWorks)]
#[case::ours_in_nft(Some(OURS), Some(OTHERS), NFT)]
#[case::ours_in_legacy(Some(OTHERS), Some(OURS), LEGACY)]
#[case::ours_in_both(Some(OURS), Some(OURS), NFT)]
#[case::ours_in_both_beside_others(Some(OURS), Some(BOTH), LEGACY)]
#[case::others_in_nft(Some(OTHERS), Some(NONE), NFT)]
#[case::others_in_legacy(Some(NONE), Some(OTHERS), LEGACY)]
#[case::only_nft_installed(Some(NONE), None, NFT)]
#[case::only_legacy_installed(None, Some(NONE), LEGACY)]
fn backend_in_use_is_chosen(
    #[case] nft: Option<Found>,
    #[case] legacy: Option<Found>,
    #[case] expected: Choice,
) {
    assert_eq!(choose(nft, legacy).unwrap(), expected);
}

#[test]
fn others_in_both_is_an_error_that_names_the_flag() {
    let error = choose(Some(OTHERS), Some(OTHERS)).unwrap_err().to_string();
    assert!(error.contains("both hold nat rules"), "{error}");
    assert!(error.contains("--iptables-backend"), "{error}");
}
