//! Uplinks: the interfaces through which routes lead to other hosts.
//!
//! Owns the reading of the kernel's routes. A node may itself be a container (kind, k3d). Then its
//! uplink is one end of a pair, as the interfaces of its pods are, but any host may have sent what
//! it receives. Must never be called for each packet.

use std::fs;

/// Whether a route of IPv4 or IPv6 leads to a network behind a gateway through an interface, or a
/// default route does. A node without the Internet has only routes to the networks of other nodes.
/// Routes to single addresses do not count: those of pods are such routes. False where routes
/// cannot be read.
pub(super) fn leads_to_other_hosts(name: &str) -> bool {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    v4(&read("/proc/net/route"), name) || v6(&read("/proc/net/ipv6_route"), name)
}

/// Columns: interface, destination, gateway, flags, reference count, use, metric, mask
/// (net/ipv4/fib_trie.c, `fib_route_seq_show`).
fn v4(routes: &str, name: &str) -> bool {
    const NONE: Option<&&str> = Some(&"00000000");
    const ONE_ADDRESS: Option<&&str> = Some(&"FFFFFFFF");
    routes.lines().map(fields).skip(1).filter(|f| f.first() == Some(&name)).any(|f| {
        let is_default = f.get(1) == NONE && f.get(7) == NONE;
        let has_gateway = f.get(2).is_some() && f.get(2) != NONE;
        is_default || has_gateway && f.get(7) != ONE_ADDRESS
    })
}

/// Columns: destination, its prefix length, source, its prefix length, next hop, metric, reference
/// count, use, flags, interface (net/ipv6/ip6_fib.c, `ipv6_route_native_seq_show`).
fn v6(routes: &str, name: &str) -> bool {
    const ONE_ADDRESS: Option<&&str> = Some(&"80");
    routes.lines().map(fields).filter(|f| f.get(9) == Some(&name)).any(|f| {
        let is_default = f.get(1) == Some(&"00");
        let has_gateway = f.get(4).is_some_and(|hop| hop.bytes().any(|digit| digit != b'0'));
        is_default || has_gateway && f.get(1) != ONE_ADDRESS
    })
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
    fn the_interface_of_a_route_through_a_gateway_is_an_uplink() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\t\
            MTU\tWindow\tIRTT\n\
            eth0\t0000F40A\t020012AC\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            veth1\t2202F40A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\
            veth2\t2302F40A\t0100FEA9\t0007\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
        assert_eq!(["eth0", "veth1", "veth2"].map(|n| v4(routes, n)), [true, false, false]);
        let zeros = "0".repeat(32);
        let hop = format!("fe8{}1", &zeros[4..]);
        let v6_routes = format!(
            "fd{0} 40 {zeros} 00 {hop} 00000400 00000003 00000000 00000003     eth0\n\
             fd{0} 80 {zeros} 00 {hop} 00000400 00000003 00000000 00000003     veth2\n",
            &zeros[2..]
        );
        assert_eq!(["eth0", "veth2"].map(|n| v6(&v6_routes, n)), [true, false]);
    }

    #[test]
    fn without_routes_there_is_no_uplink() {
        assert!(!v4("", "eth0") && !v6("", "eth0"));
    }
}
