//! Uplinks: the interfaces of default routes, which lead to the rest of the network.
//!
//! Owns the reading of the kernel's routes. A node may itself be a container (kind, k3d). Then its
//! uplink is one end of a pair, as the interfaces of its pods are, but any host may have sent what
//! it receives. Must never be called for each packet.

use std::fs;

/// Whether a default route, of IPv4 or IPv6, leads through an interface. False where routes cannot
/// be read.
pub(super) fn has_default_route(name: &str) -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    v4(&read("/proc/net/route"), name) || v6(&read("/proc/net/ipv6_route"), name)
}

/// Columns: interface, destination, gateway, flags, reference count, use, metric, mask
/// (net/ipv4/fib_trie.c, `fib_route_seq_show`).
fn v4(routes: &str, name: &str) -> bool {
    routes.lines().map(fields).any(|f| {
        f.first() == Some(&name) && f.get(1) == Some(&"00000000") && f.get(7) == Some(&"00000000")
    })
}

/// Columns: destination, its prefix length, source, its prefix length, next hop, metric, reference
/// count, use, flags, interface (net/ipv6/ip6_fib.c, `ipv6_route_native_seq_show`).
fn v6(routes: &str, name: &str) -> bool {
    routes.lines().map(fields).any(|f| f.get(1) == Some(&"00") && f.get(9) == Some(&name))
}

fn fields(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_of_an_ipv4_default_route_is_an_uplink() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\t\
            MTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(
            ["eth0", "eth1", "eth", "Iface"].map(|n| v4(routes, n)),
            [true, false, false, false]
        );
    }

    #[test]
    fn the_interface_of_an_ipv6_default_route_is_an_uplink() {
        let zeros = "0".repeat(32);
        let routes = format!(
            "fd{} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001     eth1\n\
             {zeros} 00 {zeros} 00 fd{} 00000400 00000003 00000000 00000003     eth0\n",
            &zeros[2..],
            &zeros[2..]
        );
        assert_eq!(["eth0", "eth1"].map(|n| v6(&routes, n)), [true, false]);
    }

    #[test]
    fn without_routes_there_is_no_uplink() {
        assert!(!v4("", "eth0") && !v6("", "eth0"));
    }
}
