import GatewayCore
import GatewayWire
import NIOCore
import Testing

/// Numbers are written as Swift describes them, by whichever way.
struct JSONNumberTests {
    private func written(_ number: Double) -> String {
        var writer = JSONWriter()
        writer.value(.double(number))
        return String(buffer: writer.buffer)
    }

    @Test func thousandths() {
        for number in stride(from: 1, to: 1_000_000, by: 7) {
            let double = Double(number) / 1000
            guard written(double) == double.description, written(-double) == (-double).description else {
                #expect(written(double) == double.description)
                #expect(written(-double) == (-double).description)
                return
            }
        }
    }

    @Test(arguments: [
        0.7, 0.70, 0.25, 0.001, 0.999, 999.999, 0, -0.0, 1, 0.0005, 0.1 + 0.2, 0.7.nextUp, 0.7.nextDown, 1000.5, 1e-7,
        1e300, Double.leastNonzeroMagnitude,
    ])
    func others(_ number: Double) { #expect(written(number) == number.description) }
}
