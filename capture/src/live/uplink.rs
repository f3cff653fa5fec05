//! Which interfaces lead to the rest of the network: those of default routes.
//!
//! Owns the reading of the kernel's routes. A node may itself be a container (kind, k3d), whose
//! interface to the outside is one end of a pair as its pods' are; what that receives was sent by
//! anybody. Must never be asked of each packet.

use std::fs;

/// Whether the default route, of IPv4 or IPv6, leads through an interface. Where routes cannot be
/// read, it does not.
pub(super) fn has_default_route(name: &str) -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    v4(&read("/proc/net/route"), name) || v6(&read("/proc/net/ipv6_route"), name)
}

/// Interface, destination, gateway, flags, reference count, use, metric, mask (net/ipv4/fib_trie.c,
/// `fib_route_seq_show`).
fn v4(routes: &str, name: &str) -> bool {
    routes.lines().map(fields).any(|f| {
        f.first() == Some(&name) && f.get(1) == Some(&"00000000") && f.get(7) == Some(&"00000000")
    })
}

/// Destination, its prefix length, source, its prefix length, next hop, metric, reference count,
/// use, flags, interface (net/ipv6/ip6_fib.c, `ipv6_route_native_seq_show`).
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
    fn the_interface_of_a_default_route_is_one() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(
            ["eth0", "eth1", "eth", "Iface"].map(|n| v4(routes, n)),
            [true, false, false, false]
        );
        let zeros = "0".repeat(32);
        let routes = format!(
            "fd{} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001     eth1\n\
             {zeros} 00 {zeros} 00 fd{} 00000400 00000003 00000000 00000003     eth0\n",
            &zeros[2..],
            &zeros[2..]
        );
        assert_eq!(["eth0", "eth1"].map(|n| v6(&routes, n)), [true, false]);
        assert!(!v4("", "eth0") && !v6("", "eth0"));
    }
}
