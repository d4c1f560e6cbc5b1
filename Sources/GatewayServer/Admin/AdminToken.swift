import Crypto

/// A token for operators: they keep it, and gateway.conf holds its digest.
package struct AdminToken: Sendable {
    package let text: String

    /// A new random one of 256 bits, in hexadecimal.
    package init() { text = Self.hexadecimal((0..<32).map { _ in UInt8.random(in: .min ... .max) }) }

    /// For `[admin] token_hash`.
    package var hash: String { "sha256:" + Self.hexadecimal(SHA256.hash(data: Array(text.utf8))) }

    private static func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    }
}
