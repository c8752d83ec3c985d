package containers

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// What docker-compose.yml promises can be read from it, without an engine: the
// gateway is the one way in, everything is restarted and bounded, and the
// services wait for the health of what they need.
func TestComposePublishesTheGatewayAndNothingElseOfTheServices(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docker-compose.yml")
	require.NoError(t, err)
	var file struct {
		Services map[string]struct {
			Ports       []string
			Restart     string
			MemLimit    string `yaml:"mem_limit"`
			Healthcheck struct{ Test []string }
			DependsOn   map[string]struct{ Condition string } `yaml:"depends_on"`
			Environment map[string]string
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	published := map[string][]string{}
	for name, s := range file.Services {
		if len(s.Ports) > 0 {
			published[name] = s.Ports
		}
		require.Equal(t, "unless-stopped", s.Restart, name)
		require.NotEmpty(t, s.MemLimit, name)
		require.NotEmpty(t, s.Healthcheck.Test, name)
		for on, d := range s.DependsOn {
			require.Equal(t, "service_healthy", d.Condition, "%s on %s", name, on)
		}
		if name == "gateway" || strings.HasSuffix(name, "-service") {
			require.Equal(t, []string{"CMD", "/app", "-healthcheck"}, s.Healthcheck.Test, name)
			require.NotEmpty(t, s.DependsOn, name)
			require.Equal(t, s.Environment["ADMIN_ADDR"][0], byte(':'), "%s: the admin port is for its own network", name)
		}
	}
	require.Equal(t, map[string][]string{
		"gateway": {"5000:5000"}, "kafka": {"127.0.0.1:9092:9092"},
		"order-db": {"127.0.0.1:5433:5432"}, "payment-db": {"127.0.0.1:5434:5432"},
		"notification-db": {"127.0.0.1:5435:5432"}, "auth-db": {"127.0.0.1:5436:5432"},
	}, published)
}
