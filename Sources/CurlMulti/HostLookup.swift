import CCurl
import Glibc

/// Addresses of named hosts, looked up away from the loop: a look-up inside libcurl joins the resolver's thread when
/// its transfer is cancelled, and that would hold up every other transfer.
struct HostTable {
    /// What curl is told a name means; it must live as long as a transfer uses it.
    final class Pin {
        let list: UnsafeMutablePointer<curl_slist>?
        init(host: String, port: Int, addresses: [String]) {
            let all = addresses.map { $0.utf8.contains(UInt8(ascii: ":")) ? "[\($0)]" : $0 }
            list = curl_slist_append(nil, "\(host):\(port):\(all.joined(separator: ","))")
        }
        deinit { curl_slist_free_all(list) }
    }

    private struct Entry {
        /// In the order in which they are tried.
        var addresses: [String] = []
        /// Those of them that were silent, the last one last.
        var silent: [String] = []
        var freshUntil: Int64 = 0
        var isLookingUp = false
    }

    private var entries: [String: Entry] = [:]

    /// - Returns: the addresses, where any are known, and whether a look-up must be started now. A stale address is
    ///   used while it is looked up again.
    mutating func find(_ host: String, now: Int64) -> (addresses: [String], mustLookUp: Bool) {
        let entry = entries[host, default: Entry()]
        let mustLookUp = now >= entry.freshUntil && !entry.isLookingUp
        if mustLookUp { entries[host, default: entry].isLookingUp = true }
        return (entry.addresses, mustLookUp)
    }

    /// A failed look-up keeps the old addresses: a name server that is down must not take the upstreams with it.
    mutating func finished(_ host: String, addresses: [String], freshUntil: Int64) {
        var entry = entries[host, default: Entry()]
        entry.isLookingUp = false
        if !addresses.isEmpty {
            entry.silent.removeAll { !addresses.contains($0) }
            entry.addresses = addresses.filter { !entry.silent.contains($0) } + entry.silent
            entry.freshUntil = freshUntil
        }
        entries[host] = entry
    }

    /// No connection came about with this address in its time: the host's others are tried before it from now on.
    mutating func noteSilence(of address: String, of host: String) {
        guard var entry = entries[host], entry.addresses.contains(address) else { return }
        for list in [\Entry.silent, \Entry.addresses] {
            entry[keyPath: list].removeAll { $0 == address }
            entry[keyPath: list].append(address)
        }
        entries[host] = entry
    }

    /// Starts a look-up on a thread of its own and posts its result; at most one a host runs at a time.
    static func start(_ host: String, by lookUp: @escaping CurlEngineConfiguration.LookUp, reportingTo mailbox: Mailbox)
    {
        final class Job {
            let host: String
            let lookUp: CurlEngineConfiguration.LookUp
            let mailbox: Mailbox
            init(host: String, lookUp: @escaping CurlEngineConfiguration.LookUp, mailbox: Mailbox) {
                self.host = host
                self.lookUp = lookUp
                self.mailbox = mailbox
            }
        }
        var thread = pthread_t()
        let job = Unmanaged.passRetained(Job(host: host, lookUp: lookUp, mailbox: mailbox))
        let result = pthread_create(
            &thread, nil,
            { argument in
                let job = Unmanaged<Job>.fromOpaque(argument!).takeRetainedValue()
                job.mailbox.post(.resolved(host: job.host, addresses: job.lookUp(job.host)))
                return nil
            }, job.toOpaque())
        if result == 0 {
            pthread_detach(thread)
        } else {
            job.release()
            mailbox.post(.resolved(host: host, addresses: []))
        }
    }

    /// By the system's resolver; blocks.
    /// - Returns: numeric addresses in the resolver's order; none where it knows none or fails.
    static func lookUp(_ host: String) -> [String] {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_ADDRCONFIG
        var result: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, nil, &hints, &result) == 0 else { return [] }
        defer { freeaddrinfo(result) }
        var addresses: [String] = []
        var next = result
        while let info = next {
            if let address = text(of: info.pointee.ai_addr, length: info.pointee.ai_addrlen),
                !addresses.contains(address)
            {
                addresses.append(address)
            }
            next = info.pointee.ai_next
        }
        return addresses
    }

    static func text(of address: UnsafePointer<sockaddr>, length: socklen_t) -> String? {
        var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        guard getnameinfo(address, length, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) == 0 else {
            return nil
        }
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}
