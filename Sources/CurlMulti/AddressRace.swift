import CCurl

/// The addresses of a named host while one launch of a transfer connects to them. curl opens them in their order, at
/// most one of each family at a time: the second family's first 200 ms after the other's, or when all of that refused.
///
/// A value without clock and sockets: it is told what happens.
struct AddressRace {
    /// Those that were not opened yet, in the order in which they are tried.
    private(set) var untried: [String]
    /// Those that were opened and have not refused, in the order in which they were.
    private(set) var waiting: [(address: String, socket: curl_socket_t)] = []
    /// When the last one was opened; before the first one, when the launch was.
    private var lastStep: Int64

    /// Nanoseconds: none has less, as a far one needs that.
    private static let leastTimePerAddress: Int64 = 300_000_000

    init(_ addresses: [String], now: Int64) {
        untried = addresses
        lastStep = now
    }

    mutating func open(_ address: String, socket: curl_socket_t, now: Int64) {
        guard let index = untried.firstIndex(of: address) else { return }
        untried.remove(at: index)
        waiting.append((address, socket))
        lastStep = now
    }

    /// Refused, unreachable, or not to be opened at all.
    /// - Returns: whether it was one of these, and there are others.
    mutating func refuse(_ socket: curl_socket_t) -> Bool {
        guard let index = waiting.firstIndex(where: { $0.socket == socket }) else { return false }
        waiting.remove(at: index)
        return !untried.isEmpty
    }

    /// One of them took the connection: no other is tried any more.
    mutating func settle() { untried = [] }

    /// When the untried ones are tried in place of those that are silent: each has an equal part of the time that is
    /// left. curl would give half of it to the first one, but asks for no call at that moment (7.88). Nil where all were
    /// tried.
    func nextAt(end: Int64) -> Int64? {
        guard !untried.isEmpty else { return nil }
        let parts = untried.count + (waiting.isEmpty ? 0 : 1)
        return lastStep + max((end - lastStep) / Int64(parts), Self.leastTimePerAddress)
    }

    /// Those that were asked before this one, which took the connection, and had said nothing by then. One that refused
    /// is not among them: it costs a round trip and not a wait, and a server that restarts has its place back.
    func silent(before winner: String) -> [String] {
        guard let index = waiting.firstIndex(where: { $0.address == winner }) else { return [] }
        return waiting[..<index].map(\.address)
    }
}
