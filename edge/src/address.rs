//! Whose request it is.
//!
//! Owns: the client's address, of the connection or as far as proxies are trusted of a header.
//! Does not own: what follows from it (`rates`, `visitor`, `geo`).

use axum::http::HeaderMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where proxies say whom they speak for.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address. With `proxies` before the edge, it is the entry that the outermost of them wrote: that many from the
/// end. Where there are fewer entries, somebody went around a proxy, and only the connection is believed.
pub(crate) fn client(connected: IpAddr, headers: &HeaderMap, proxies: u32) -> IpAddr {
    let connected = connected.to_canonical();
    let Some(from_end) = (proxies as usize).checked_sub(1) else { return connected };
    let values = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let entries: Vec<&str> = values.flat_map(|value| value.split(',')).collect();
    entries.iter().rev().nth(from_end).and_then(|entry| parse(entry)).unwrap_or(connected)
}

/// An address with or without a port.
pub(crate) fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let alone = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address: Option<IpAddr> = alone.parse().ok();
    address
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|address| address.to_canonical())
}

/// What one client is taken for: a household of IPv6 has 2^64 addresses.
pub(crate) fn household(address: IpAddr) -> u128 {
    match address {
        // Apart from all IPv6: 6to4 and the like have no such prefix.
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64 | 1 << 63,
    }
}

/// Nobody's: for requests that came over no connection.
pub(crate) const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        values
            .iter()
            .for_each(|value| _ = headers.append(FORWARDED_FOR, axum::http::HeaderValue::from_static(value)));
        headers
    }

    fn of(values: &[&'static str], proxies: u32) -> String {
        let peer = "10.0.0.9".parse().unwrap();
        client(peer, &headers(values), proxies).to_string()
    }

    #[test]
    fn without_trusted_proxies_the_header_is_not_believed() {
        assert_eq!(of(&["1.2.3.4"], 0), "10.0.0.9");
    }

    #[test]
    fn of_what_a_client_made_up_only_the_entries_of_trusted_proxies_count() {
        assert_eq!(of(&["6.6.6.6, 1.2.3.4"], 1), "1.2.3.4");
        assert_eq!(of(&["6.6.6.6", "1.2.3.4,10.0.0.1"], 2), "1.2.3.4");
        // Somebody came around the outer proxy.
        assert_eq!(of(&["1.2.3.4"], 2), "10.0.0.9");
        assert_eq!(of(&[], 1), "10.0.0.9");
        assert_eq!(of(&["unknown"], 1), "10.0.0.9");
    }

    #[test]
    fn addresses_are_read_with_and_without_a_port_and_in_one_form() {
        for (text, expected) in [
            ("1.2.3.4", "1.2.3.4"),
            (" 1.2.3.4:80", "1.2.3.4"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("[::1]", "::1"),
            ("::ffff:1.2.3.4", "1.2.3.4"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), expected, "{text}");
        }
        for text in ["", "host", "1.2.3", "[1.2.3.4"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one_household_and_no_ipv4_address_is_in_it() {
        let of = |text: &str| household(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("::1"), of("0.0.0.1"));
    }
}
