import GatewayCore
import NIOCore
import Testing

@testable import GatewayWire

struct BatchReplyTests {
    /// Items are cut to microseconds; the sum of what was cut off showed in the total.
    @Test func theTotalTimeIsTheSumOfTheItemsAsWritten() {
        let results = [1_600, 2_900, 3_999, 0].map { nanoseconds in
            BatchResult.done(requestID: "r", text: "t", tokensGenerated: 1, inferenceTime: .nanoseconds(nanoseconds))
        }
        var writer = JSONWriter()
        writer.batch(results + [.refused(error: "e", promptJSON: ByteBuffer(string: "1"))])
        let text = String(buffer: writer.buffer)
        for item in ["0.001", "0.002", "0.003", "0"] { #expect(text.contains(#""inference_time_ms":\#(item)}"#)) }
        #expect(text.hasSuffix(#""total_prompts":5,"successful":4,"total_time_ms":0.006,"total_tokens":4}"#))
    }
}
