import Glibc

/// Addresses in numbers, in the forms that inet_pton(3) takes: nothing is left out, no zone, no leading zeros.
package enum NumericAddress {
    package static func isIPv4(_ text: some StringProtocol) -> Bool { canonical(text, AF_INET) != nil }

    /// - Parameter text: without brackets.
    package static func isIPv6(_ text: some StringProtocol) -> Bool { canonical(text, AF_INET6) != nil }

    /// The usual form of an address, which is the same for all that mean the same; nil where it is none.
    static func canonical(_ text: some StringProtocol, _ family: CInt) -> String? {
        var bytes = in6_addr()
        var output = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        guard !text.utf8.contains(0), inet_pton(family, String(text), &bytes) == 1,
            inet_ntop(family, &bytes, &output, socklen_t(output.count)) != nil
        else { return nil }
        return String(decoding: output.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
