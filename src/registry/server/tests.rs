//! The places to which a server may send wharfd.

use std::path::PathBuf;

use super::{
    super::tests::{lookups, recorder},
    *,
};
use crate::names::CallerId;

#[tokio::test]
async fn its_own_host_is_judged_as_any_other() {
    let inside = recorder::Server::start(None, |_| recorder::ok("{}")).await;
    let info = serde_json::json!({"RegistryConfig": {"InsecureRegistryCIDRs": ["127.0.0.0/8", "::1/128"]}});
    let reach = Reach::of(&serde_json::from_value(info).unwrap());
    let endpoint = reach.endpoints(&inside.host()).unwrap().pop().unwrap();
    let certs = Arc::new(Certs::new(PathBuf::new()));
    let server =
        Server::new(certs, lookups().of(&CallerId::Uid(1)), reach, endpoint, "app", Access::Pull, None);
    let there = Origin::parse("http", &inside.host()).unwrap();
    // Its name also has an address of the node, beside the one that answered.
    let ask = async |inwards| {
        let reached = Reached {
            origin: Origin { port: 1, ..there.clone() },
            insecure: true,
            inwards,
            addresses: vec![inside.address.ip()],
            authorization: None,
            challenge: None,
        };
        let request = request(&Method::GET, "/", &HeaderMap::new(), None, empty()).unwrap();
        server.hop(&reached, &there, request, None).await.map(|answer| answer.status)
    };
    for refused in [Inwards::Public, Inwards::Private] {
        assert_eq!(ask(refused).await.unwrap_err().kind(), Kind::Misled);
    }
    assert!(inside.heard().is_empty(), "{:?}", inside.heard());
    assert_eq!(ask(Inwards::Loopback).await.unwrap(), StatusCode::OK);
}
