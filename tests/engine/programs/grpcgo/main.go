// A client and a server of grpc-go's, for the tests: they say what grpc_talk.py and grpc_server.py do.
//
//	grpcgo serve CHAIN KEY               says its ports, with TLS and without, when it listens
//	grpcgo TARGET METHOD WORD...         Reflect lists what the server says that it has
//	grpcgo load TARGET SECONDS STREAMS   says how many unary calls were made
//
// A client speaks TLS to port 443, or to any if GRPC_TLS is set.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	rpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type word = wrapperspb.StringValue

func say(format string, args ...any) *word { return wrapperspb.String(fmt.Sprintf(format, args...)) }

// Register what protoc would have made of a file with message Word and service Talk.
func register() error {
	str := descriptorpb.FieldDescriptorProto_TYPE_STRING
	one := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL
	method := func(name string, client, server bool) *descriptorpb.MethodDescriptorProto {
		in := proto.String(".test.Word")
		return &descriptorpb.MethodDescriptorProto{
			Name: &name, InputType: in, OutputType: in, ClientStreaming: &client, ServerStreaming: &server,
		}
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name:    proto.String("test/talk.proto"),
		Package: proto.String("test"),
		Syntax:  proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("Word"),
			Field: []*descriptorpb.FieldDescriptorProto{{
				Name: proto.String("text"), Number: proto.Int32(1), Type: &str, Label: &one, JsonName: proto.String("text"),
			}},
		}},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("Talk"),
			Method: []*descriptorpb.MethodDescriptorProto{
				method("Unary", false, false), method("ServerStream", false, true),
				method("ClientStream", true, false), method("Both", true, true),
			},
		}},
	}, nil)
	if err != nil {
		return err
	}
	return protoregistry.GlobalFiles.RegisterFile(protoreflect.FileDescriptor(file))
}

func unary(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	in := &word{}
	if err := decode(in); err != nil {
		return nil, err
	}
	if in.Value == "fail" {
		grpc.SetTrailer(ctx, metadata.Pairs("why", "because"))
		return nil, status.Error(codes.NotFound, "no such thing: ü")
	}
	return say("hello %s", in.Value), nil
}

func serverStream(_ any, stream grpc.ServerStream) error {
	in := &word{}
	if err := stream.RecvMsg(in); err != nil {
		return err
	}
	for number := range 3 {
		if err := stream.SendMsg(say("%s %d", in.Value, number)); err != nil {
			return err
		}
	}
	return nil
}

func clientStream(_ any, stream grpc.ServerStream) error {
	var words []string
	for {
		in := &word{}
		if err := stream.RecvMsg(in); err == io.EOF {
			return stream.SendMsg(say("%s", strings.Join(words, " ")))
		} else if err != nil {
			return err
		}
		words = append(words, in.Value)
	}
}

func both(_ any, stream grpc.ServerStream) error {
	if err := stream.SendMsg(say("ready")); err != nil {
		return err
	}
	for {
		in := &word{}
		if err := stream.RecvMsg(in); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(say("you said %s", in.Value)); err != nil {
			return err
		}
		if err := stream.SendMsg(say("next?")); err != nil {
			return err
		}
	}
}

var talk = grpc.ServiceDesc{
	ServiceName: "test.Talk",
	HandlerType: (*any)(nil),
	Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: unary}},
	Streams: []grpc.StreamDesc{
		{StreamName: "ServerStream", Handler: serverStream, ServerStreams: true},
		{StreamName: "ClientStream", Handler: clientStream, ClientStreams: true},
		{StreamName: "Both", Handler: both, ClientStreams: true, ServerStreams: true},
	},
	Metadata: "test/talk.proto",
}

func serve(chain, key string) error {
	if err := register(); err != nil {
		return err
	}
	pair, err := credentials.NewServerTLSFromFile(chain, key)
	if err != nil {
		return err
	}
	var ports []any
	ended := make(chan error)
	for _, options := range [][]grpc.ServerOption{{grpc.Creds(pair)}, nil} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		server := grpc.NewServer(options...)
		server.RegisterService(&talk, nil)
		reflection.Register(server)
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
		go func() { ended <- server.Serve(listener) }()
	}
	fmt.Println(ports...)
	go func() { io.Copy(io.Discard, os.Stdin); ended <- nil }()
	return <-ended
}

func hear(stream grpc.ClientStream) error {
	in := &word{}
	err := stream.RecvMsg(in)
	if err == nil {
		fmt.Println(in.Value)
	}
	return err
}

// Say each word only when the answers to the one before have come.
func twoWays(stream grpc.ClientStream, words []string) error {
	if err := hear(stream); err != nil {
		return err
	}
	for _, one := range words {
		if err := stream.SendMsg(say("%s", one)); err != nil {
			return err
		}
		for range 2 {
			if err := hear(stream); err != nil {
				return err
			}
		}
	}
	stream.CloseSend()
	if err := hear(stream); err != io.EOF {
		return fmt.Errorf("more: %v", err)
	}
	fmt.Println("[] OK")
	return nil
}

func reflect(ctx context.Context, connection *grpc.ClientConn) error {
	stream, err := rpb.NewServerReflectionClient(connection).ServerReflectionInfo(ctx)
	if err != nil {
		return err
	}
	ask := &rpb.ServerReflectionRequest{MessageRequest: &rpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "test.Talk"}}
	if err := stream.Send(ask); err != nil {
		return err
	}
	answer, err := stream.Recv()
	if err != nil {
		return err
	}
	fmt.Println(len(answer.GetFileDescriptorResponse().GetFileDescriptorProto()), "file")
	stream.CloseSend()
	_, err = stream.Recv()
	if err == io.EOF {
		return nil
	}
	return err
}

func dial(target string) (*grpc.ClientConn, error) {
	var pair credentials.TransportCredentials = insecure.NewCredentials()
	if strings.HasSuffix(target, ":443") || os.Getenv("GRPC_TLS") != "" {
		pair = credentials.NewTLS(nil)
	}
	return grpc.NewClient(target, grpc.WithTransportCredentials(pair))
}

func load(target, seconds, streams string) error {
	connection, err := dial(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	duration, err := time.ParseDuration(seconds + "s")
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(streams)
	if err != nil {
		return err
	}
	var calls atomic.Int64
	failed := make(chan error, count)
	until := time.Now().Add(duration)
	for range count {
		go func() {
			out := &word{}
			for time.Now().Before(until) {
				if err := connection.Invoke(context.Background(), "/test.Talk/Unary", say("you"), out); err != nil {
					failed <- err
					return
				}
				calls.Add(1)
			}
			failed <- nil
		}()
	}
	for range count {
		if err := <-failed; err != nil {
			return err
		}
	}
	fmt.Println(calls.Load(), "calls")
	return nil
}

func call(target, method string, words []string) error {
	connection, err := dial(target)
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-sent", "mine")
	path := "/test.Talk/" + method
	switch method {
	case "Reflect":
		return reflect(ctx, connection)
	case "Unary":
		for _, one := range words {
			out := &word{}
			if err := connection.Invoke(ctx, path, say("%s", one), out); err != nil {
				fmt.Println(status.Code(err), status.Convert(err).Message())
				continue
			}
			fmt.Println(out.Value)
		}
		return nil
	}
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
	if err != nil {
		return err
	}
	if method == "Both" {
		return twoWays(stream, words)
	}
	for _, one := range words {
		if err := stream.SendMsg(say("%s", one)); err != nil {
			return err
		}
	}
	stream.CloseSend()
	for err == nil {
		err = hear(stream)
	}
	if err == io.EOF {
		return nil
	}
	return err
}

func main() {
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(os.Args[2], os.Args[3])
	case "load":
		err = load(os.Args[2], os.Args[3], os.Args[4])
	default:
		err = call(os.Args[1], os.Args[2], os.Args[3:])
	}
	if err != nil {
		fmt.Println(status.Code(err))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
