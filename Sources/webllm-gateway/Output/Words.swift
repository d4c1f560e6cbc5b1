import Foundation

/// Figures as people read them.
enum Words {
    /// `45 ms`, `1.24 s`, `2 m 5 s`.
    static func milliseconds(_ value: Double) -> String {
        switch value {
        case ..<10: "\(number(value, decimals: value == value.rounded() ? 0 : 2)) ms"
        case ..<999.5: "\(number(value, decimals: 0)) ms"
        case ..<60_000: "\(number(value / 1000, decimals: 2)) s"
        default: seconds(Int(value / 1000))
        }
    }

    /// `12 s`, `3 m 20 s`, `5 h 12 m`, `3 d 4 h`.
    static func seconds(_ seconds: Int) -> String {
        switch seconds {
        case ..<60: "\(seconds) s"
        case ..<3600: "\(seconds / 60) m \(seconds % 60) s"
        case ..<86_400: "\(seconds / 3600) h \(seconds / 60 % 60) m"
        default: "\(seconds / 86_400) d \(seconds / 3600 % 24) h"
        }
    }

    static func number(_ value: Double, decimals: Int) -> String { String(format: "%.\(decimals)f", value) }

    /// `1 request`, `2 requests`.
    static func count(_ count: Int, _ noun: String) -> String { "\(count) \(noun)\(count == 1 ? "" : "s")" }

    /// A time of the gateway, to the second.
    static func time(_ timestamp: String) -> String { String(timestamp.prefix(19).replacing("T", with: " ")) }

    /// The gateway's own words, such as `probed_down`.
    static func plain(_ word: String) -> String { word.replacing("_", with: " ") }
}
