// Stock @grpc/grpc-js in one session: `node grpc_js_session.js ADDRESS FOLDER`, with its node_modules on NODE_PATH.
// FOLDER holds the protocol under the path by which its files import each other.
// Prints what it found as JSON; the test that started it judges.
'use strict'

const grpc = require('@grpc/grpc-js')
const loader = require('@grpc/proto-loader')

const [address, folder] = process.argv.slice(2)
const definition = loader.loadSync('serving/pb/open_inference.proto', { includeDirs: [folder], keepCase: true, longs: Number, defaults: true })
const Service = grpc.loadPackageDefinition(definition).inference.GRPCInferenceService
const UNLIMITED = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 }
const GZIP = 2, DEFLATE = 1
const TIMEOUT_MS = 60000
const clients = []

function connect (options = {}) {
  // Without a pool of its own a channel would share its connection with the others.
  const own = { 'grpc.use_local_subchannel_pool': 1, ...UNLIMITED, ...options }
  const client = new Service(address, grpc.credentials.createInsecure(), own)
  clients.push(client)
  return client
}

function request (model, values, width) {
  return {
    model_name: model,
    inputs: [{ name: 'x', datatype: 'FP32', shape: [values.length / width, width] }],
    raw_input_contents: [Buffer.from(Float32Array.from(values).buffer)]
  }
}

function valuesOf (response) {
  const raw = response.raw_output_contents[0]
  return Array.from(new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length)))
}

function infer (client, message, { metadata = new grpc.Metadata(), timeoutMs = TIMEOUT_MS, started = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const deadline = Date.now() + timeoutMs
    started(client.ModelInfer(message, metadata, { deadline }, (error, response) => error ? reject(error) : resolve(response)))
  })
}

async function outcome (promise) {
  try {
    return valuesOf(await promise)[0]
  } catch (error) {
    return [error.code, error.details]
  }
}

async function many () {
  const connections = Array.from({ length: 4 }, () => connect())
  const asked = Array.from({ length: 1000 }, (_, k) => infer(connections[k % 4], request('affine', Array(4).fill(k), 4)))
  const answers = await Promise.all(asked)
  return answers.filter((answer, k) => valuesOf(answer).every(value => value === 2 * k + 1)).length
}

function stream (client, count) {
  return new Promise((resolve, reject) => {
    const seen = []
    const call = client.ModelStreamInfer(new grpc.Metadata(), { deadline: Date.now() + TIMEOUT_MS })
    call.on('data', answer => seen.push(answer.error_message || valuesOf(answer.infer_response)[0]))
    call.on('error', reject)
    call.on('end', () => resolve(seen))
    for (let k = 0; k < count; k++) {
      call.write(request('affine', Array(4).fill(k), 4))
    }
    call.end()
  })
}

async function cancelled (client) {
  const calls = []
  const options = { started: call => calls.push(call) }
  const waiting = Array.from({ length: 10 }, () => outcome(infer(client, request('waits', [0, 0, 0, 0], 4), options)))
  // When this one is answered, those before it on the same connection have been sent.
  await infer(client, request('affine', [0, 0, 0, 0], 4))
  calls.forEach(call => call.cancel())
  return (await Promise.all(waiting)).map(([code]) => code)
}

async function large (client) {
  const row = Array.from({ length: 2000000 }, (_, k) => k % 251)
  const values = valuesOf(await infer(client, request('echo', row, row.length)))
  return values.length === row.length && values.every((value, k) => value === row[k])
}

function withMetadata (...entries) {
  const metadata = new grpc.Metadata()
  entries.forEach(([key, value]) => metadata.add(key, value))
  return { metadata }
}

async function main () {
  const client = connect()
  const seven = request('affine', [7, 7, 7, 7], 4)
  const binary = Buffer.from(Array.from({ length: 256 }, (_, k) => k))
  const facts = {
    many: await many(),
    stream: await stream(client, 100),
    gzip: await outcome(infer(connect({ 'grpc.default_compression_algorithm': GZIP }), seven)),
    deflate: await outcome(infer(connect({ 'grpc.default_compression_algorithm': DEFLATE }), seven)),
    large: await large(client),
    metadata: await outcome(infer(client, seven, withMetadata(['x-tag', 'a'], ['x-tag', 'b'], ['every-byte-bin', binary]))),
    'large metadata': await outcome(infer(client, seven, withMetadata(['x-long', 'v'.repeat(15000)]))),
    'too large metadata': (await outcome(infer(client, seven, withMetadata(['x-long', 'v'.repeat(40000)]))))[0],
    deadline: (await outcome(infer(client, request('slow', Array(512 * 256).fill(0), 512), { timeoutMs: 50 })))[0],
    mistake: await outcome(infer(client, request('nobody', [0, 0, 0, 0], 4))),
    cancelled: await cancelled(client),
    after: await outcome(infer(client, seven))
  }
  clients.forEach(each => each.close())
  process.stdout.write(JSON.stringify(facts))
}

main().catch(error => {
  console.error(error)
  process.exit(1)
})
