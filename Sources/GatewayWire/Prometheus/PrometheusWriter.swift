import GatewayCore
import NIOCore

/// Writes Prometheus' text format, version 0.0.4.
package struct PrometheusWriter {
    package enum Kind: String, Sendable { case counter, gauge, histogram }
    package typealias Labels = [(name: StaticString, value: String)]

    package private(set) var buffer = ByteBuffer()
    private var name = ""

    package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    package init() {}

    /// Starts a family; its samples must follow.
    package mutating func family(_ name: String, _ kind: Kind, _ help: String) {
        self.name = name
        buffer.writeString("# HELP \(name) \(help)\n# TYPE \(name) \(kind.rawValue)\n")
    }

    package mutating func sample(_ value: Int, _ labels: Labels = []) { line(name, labels, "\(value)") }

    package mutating func sample(_ value: Double, _ labels: Labels = []) { line(name, labels, "\(value)") }

    package mutating func sample(_ histogram: Histogram, _ labels: Labels = []) {
        var count: UInt64 = 0
        for (index, bound) in histogram.bounds.enumerated() {
            count += histogram.counts[index]
            line(name + "_bucket", labels + [("le", "\(bound)")], "\(count)")
        }
        line(name + "_bucket", labels + [("le", "+Inf")], "\(histogram.total)")
        line(name + "_sum", labels, "\(histogram.sum)")
        line(name + "_count", labels, "\(histogram.total)")
    }

    private mutating func line(_ name: String, _ labels: Labels, _ value: String) {
        buffer.writeString(name)
        if !labels.isEmpty {
            for (index, label) in labels.enumerated() {
                buffer.writeStaticString(index == 0 ? "{" : ",")
                buffer.writeStaticString(label.name)
                buffer.writeStaticString("=\"")
                writeEscaped(label.value)
                buffer.writeStaticString("\"")
            }
            buffer.writeStaticString("}")
        }
        buffer.writeString(" \(value)\n")
    }

    private mutating func writeEscaped(_ text: String) {
        for byte in text.utf8 {
            switch byte {
            case UInt8(ascii: "\\"): buffer.writeStaticString("\\\\")
            case UInt8(ascii: "\""): buffer.writeStaticString("\\\"")
            case 0x0A: buffer.writeStaticString("\\n")
            default: buffer.writeInteger(byte)
            }
        }
    }
}
